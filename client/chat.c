#include "client/chat.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "client/chat_template.h"
#include "client/error.h"
#include "client/tokenizer.h"

enum { SPECIAL_MAX = 8 };

struct chat_format {
    const char *name;
    const char *special[SPECIAL_MAX]; /* the tokens that the vocabulary must have */
    const char *opening[2];
    const char *answer; /* text behind the answer's <|assistant|> */
    bool chatml;
    bool line_end_apart; /* the header's "\n" and the content are encoded one by one */
    bool skips_empty;
    bool system_first;
    bool drops_thoughts;
};

#define GLM_ROLES "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"

static const struct chat_format formats[] = {
    {
        .name = "glm4",
        .special = {GLM_ROLES, "[gMASK]", "<sop>"},
        .opening = {"[gMASK]", "<sop>"},
        .answer = "",
        .line_end_apart = true,
        .skips_empty = true,
    },
    {
        .name = "glm4-0414",
        .special = {GLM_ROLES, "[gMASK]", "<sop>"},
        .opening = {"[gMASK]", "<sop>"},
        .answer = "",
        .system_first = true,
    },
    {
        .name = "glm-z1",
        .special = {GLM_ROLES, "[gMASK]", "<sop>"},
        .opening = {"[gMASK]", "<sop>"},
        .answer = "\n<think>",
        .system_first = true,
        .drops_thoughts = true,
    },
    {
        .name = "glm-edge",
        .special = {GLM_ROLES},
        .answer = "",
    },
    {
        .name = "chatml",
        .special = {"<|im_start|>", "<|im_end|>"},
        .chatml = true,
    },
};

static const struct chat_format *find_format(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

static bool has_token(const struct agl_tokenizer *tokenizer, const char *text)
{
    return vocabulary_find_added(&tokenizer->vocabulary, text, strlen(text)) >= 0;
}

/* The first of the format's special tokens that the vocabulary lacks, or NULL. */
static const char *lacking(const struct agl_tokenizer *tokenizer, const struct chat_format *format)
{
    for (int i = 0; i < SPECIAL_MAX && format->special[i]; i++)
        if (!has_token(tokenizer, format->special[i]))
            return format->special[i];
    return NULL;
}

const char *agl_chat_format(const struct agl_tokenizer *tokenizer)
{
    return tokenizer->chat ? tokenizer->chat->name : NULL;
}

int agl_chat_set_format(struct agl_tokenizer *tokenizer, const char *name)
{
    const struct chat_format *format = find_format(name);
    if (!format)
        return error_set(-ENOENT,
                         "no chat format \"%.64s\"; there are glm4, glm4-0414, glm-z1, "
                         "glm-edge, chatml",
                         name);
    const char *token = lacking(tokenizer, format);
    if (token)
        return error_set(-ENOTSUP, "the vocabulary has no %s, which %s needs", token, name);
    tokenizer->chat = format;
    return 0;
}

/* ---- detection ------------------------------------------------------------------------------- */

static bool is_any(const char *text, const char *a, const char *b)
{
    return text && (strcmp(text, a) == 0 || (b && strcmp(text, b) == 0));
}

static bool contains(const char *text, const char *part)
{
    return text && strstr(text, part);
}

/* [gMASK] of GLM-Edge. */
enum { EDGE_GMASK = 59248 };

static const char *name_by_template(const char *template, bool is_glm, bool is_glm4)
{
    if (contains(template, "<|im_start|>"))
        return "chatml";
    if (contains(template, "<arg_key>") || contains(template, "/nothink"))
        return NULL;
    if (contains(template, "[gMASK]")) {
        if (!is_glm4)
            return "glm4";
        return contains(template, "<think>") ? "glm-z1" : "glm4-0414";
    }
    if (is_glm && contains(template, "<|user|>") && contains(template, "<|assistant|>"))
        return "glm-edge";
    return NULL;
}

static const char *name_by_model(const struct agl_tokenizer *tokenizer,
                                 const struct chat_clues *clues, bool is_glm, bool is_glm4)
{
    bool unknown = !clues->architecture && !clues->model_type;
    bool is_chatglm =
        is_any(clues->architecture, "ChatGLMModel", "ChatGLMForConditionalGeneration") ||
        is_any(clues->model_type, "chatglm", NULL);
    if (is_glm4)
        return "glm4-0414";
    if (is_glm && vocabulary_find_added(&tokenizer->vocabulary, "[gMASK]", 7) == EDGE_GMASK)
        return "glm-edge";
    if (is_glm || is_chatglm)
        return "glm4";
    if (has_token(tokenizer, "<|im_start|>"))
        return "chatml";
    return unknown ? "glm4" : NULL;
}

static const struct chat_format *detect(const struct agl_tokenizer *tokenizer,
                                        const struct chat_clues *clues)
{
    bool is_glm = is_any(clues->architecture, "GlmForCausalLM", NULL) ||
                  is_any(clues->model_type, "glm", NULL);
    bool is_glm4 = is_any(clues->architecture, "Glm4ForCausalLM", NULL) ||
                   is_any(clues->model_type, "glm4", NULL);
    if (has_token(tokenizer, "/nothink"))
        return NULL;
    const char *name = clues->template ? name_by_template(clues->template, is_glm, is_glm4)
                                       : name_by_model(tokenizer, clues, is_glm, is_glm4);
    const struct chat_format *format = name ? find_format(name) : NULL;
    return format && !lacking(tokenizer, format) ? format : NULL;
}

int chat_find(struct agl_tokenizer *tokenizer, const struct chat_clues *clues)
{
    tokenizer->chat = detect(tokenizer, clues);
    if (!tokenizer->chat || !tokenizer->chat->chatml || !clues->template)
        return 0;
    return chat_template_system(clues->template, &tokenizer->chat_system);
}

/* ---- rendering ------------------------------------------------------------------------------- */

/* A prompt in the making. The first error stays, and nothing is added after it. */
struct prompt {
    const struct agl_tokenizer *tokenizer;
    const struct chat_format *format;
    struct id_list ids;
    int err;
};

static void add_special(struct prompt *prompt, const char *text)
{
    if (prompt->err < 0)
        return;
    int32_t id = vocabulary_find_added(&prompt->tokenizer->vocabulary, text, strlen(text));
    if (id < 0)
        prompt->err = error_set(-ENOTSUP, "the vocabulary has no %s", text);
    else
        prompt->err = id_list_push(&prompt->ids, (uint32_t)id);
}

static void add_text(struct prompt *prompt, const char *text, size_t bytes)
{
    if (prompt->err == 0 && bytes > 0)
        prompt->err = tokenizer_encode(prompt->tokenizer, text, bytes, &prompt->ids);
}

/* Encodes head and text as one. */
static void add_joined(struct prompt *prompt, const char *head, const char *text)
{
    size_t head_bytes = strlen(head);
    size_t text_bytes = strlen(text);
    if (prompt->err < 0)
        return;
    char *joined = malloc(head_bytes + text_bytes + 1);
    if (!joined) {
        prompt->err = -ENOMEM;
        return;
    }
    memcpy(mempcpy(joined, head, head_bytes), text, text_bytes + 1);
    add_text(prompt, joined, head_bytes + text_bytes);
    free(joined);
}

/* The text behind the last </think>, without the white space before it. */
static const char *without_thoughts(const char *content)
{
    const char *mark = NULL;
    for (const char *at = content; (at = strstr(at, "</think>")); at++)
        mark = at;
    if (!mark)
        return content;
    mark += strlen("</think>");
    return mark + strspn(mark, " \t\r\n");
}

static void add_chatml(struct prompt *prompt, const struct agl_message *message)
{
    static const struct {
        const char *role;
        const char *head;
    } heads[] = {{"system", "system\n"}, {"user", "user\n"}, {"assistant", "assistant\n"}};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        if (strcmp(message->role, heads[i].role) != 0)
            continue;
        add_special(prompt, "<|im_start|>");
        add_joined(prompt, heads[i].head, message->content);
        add_special(prompt, "<|im_end|>");
        add_text(prompt, "\n", 1);
    }
}

static void add_glm(struct prompt *prompt, const struct agl_message *message)
{
    static const struct {
        const char *role;
        const char *token;
    } tokens[] = {{"system", "<|system|>"},
                  {"user", "<|user|>"},
                  {"assistant", "<|assistant|>"},
                  {"observation", "<|observation|>"}};
    const char *content = message->content;
    if (prompt->format->drops_thoughts && strcmp(message->role, "assistant") == 0)
        content = without_thoughts(content);
    if (prompt->format->skips_empty && !*content)
        return;
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        if (strcmp(message->role, tokens[i].role) == 0)
            add_special(prompt, tokens[i].token);
    if (prompt->format->line_end_apart) {
        add_text(prompt, "\n", 1);
        add_text(prompt, content, strlen(content));
    } else {
        add_joined(prompt, "\n", content);
    }
}

static void add_opening(struct prompt *prompt, uint32_t flags)
{
    const struct chat_format *format = prompt->format;
    if (flags & AGL_CHAT_CONTINUE) {
        if (format->chatml) {
            add_special(prompt, "<|im_end|>");
            add_text(prompt, "\n", 1);
        }
        return;
    }
    for (int i = 0; i < 2 && format->opening[i]; i++)
        add_special(prompt, format->opening[i]);
}

static void add_answer_header(struct prompt *prompt)
{
    if (prompt->format->chatml) {
        add_special(prompt, "<|im_start|>");
        add_text(prompt, "assistant\n", strlen("assistant\n"));
        return;
    }
    add_special(prompt, "<|assistant|>");
    add_text(prompt, prompt->format->answer, strlen(prompt->format->answer));
}

static bool is_system(const struct agl_message *message)
{
    return strcmp(message->role, "system") == 0;
}

/* Templates look at the first message alone, so that is done here, too. */
static void add_own_system(struct prompt *prompt)
{
    const char *text = prompt->tokenizer->chat_system;
    if (prompt->format->chatml && text)
        add_chatml(prompt, &(struct agl_message){"system", text});
}

static void add_messages(struct prompt *prompt, const struct agl_message *messages, size_t count,
                         uint32_t flags)
{
    const struct chat_format *format = prompt->format;
    add_opening(prompt, flags);
    if (!(flags & AGL_CHAT_CONTINUE) && count > 0 && !is_system(&messages[0]))
        add_own_system(prompt);
    for (int pass = format->system_first ? 0 : 1; pass < 2; pass++) {
        for (size_t i = 0; i < count; i++) {
            if (format->system_first && is_system(&messages[i]) != (pass == 0))
                continue;
            if (format->chatml)
                add_chatml(prompt, &messages[i]);
            else
                add_glm(prompt, &messages[i]);
        }
    }
    if (flags & AGL_CHAT_GENERATE)
        add_answer_header(prompt);
}

/* Nothing of the format is rendered before all messages are found to fit it. */
static int check_messages(const struct chat_format *format, const struct agl_message *messages,
                          size_t count)
{
    static const char *const roles[] = {"system", "user", "assistant", "observation"};
    size_t role_count = format->chatml ? 3 : 4;
    for (size_t i = 0; i < count; i++) {
        if (!messages[i].role || !messages[i].content)
            return error_set(-EINVAL, "messages[%zu]: role or content is NULL", i);
        size_t role = 0;
        while (role < role_count && strcmp(messages[i].role, roles[role]) != 0)
            role++;
        if (role == role_count)
            return error_set(-EINVAL, "messages[%zu]: %s knows no role \"%.64s\"", i, format->name,
                             messages[i].role);
    }
    return 0;
}

int agl_chat_encode(const struct agl_tokenizer *tokenizer, const struct agl_message *messages,
                    size_t count, uint32_t flags, uint32_t *ret_ids, size_t capacity)
{
    if (!tokenizer || (!messages && count > 0) || (!ret_ids && capacity > 0))
        return error_set(-EINVAL, "agl_chat_encode: an argument is NULL");
    if (flags & ~(uint32_t)(AGL_CHAT_GENERATE | AGL_CHAT_CONTINUE))
        return error_set(-EINVAL, "agl_chat_encode: unknown flags 0x%x", flags);
    if (!tokenizer->chat)
        return error_set(-ENOTSUP, "no chat format is known for this tokenizer");
    int err = check_messages(tokenizer->chat, messages, count);
    if (err < 0)
        return err;

    struct prompt prompt = {.tokenizer = tokenizer, .format = tokenizer->chat};
    add_messages(&prompt, messages, count, flags);
    if (prompt.err < 0) {
        free(prompt.ids.ids);
        if (prompt.err == -ENOMEM)
            return error_set(prompt.err, "no memory to render %zu messages", count);
        return prompt.err;
    }
    return id_list_deliver(&prompt.ids, ret_ids, capacity);
}
