/*
 * Chat formats: how messages become one prompt. Each is described by a struct of the table in
 * chat.c. Headers are made of special tokens by their ids; contents go through agl_encode()'s path,
 * so they stay plain text whatever they spell.
 *
 *   name        opening        a message                                        the answer's header
 *   glm4        [gMASK]<sop>   <|role|> "\n" content; an empty one is left out  <|assistant|>
 *   glm4-0414   [gMASK]<sop>   <|role|> "\ncontent"; system messages first      <|assistant|>
 *   glm-z1      the same, and an assistant's text before </think> is left out   <|assistant|>
 * "\n<think>" glm-edge                   <|role|> "\ncontent" <|assistant|> chatml <|im_start|>
 * "role\ncontent" <|im_end|> "\n"     <|im_start|> "assistant\n"
 *
 * Each quoted text is encoded by itself: glm4 separates the line end from the content, as GLM-4's
 * own Python does, so that a content which begins with a line end gives two of them.
 *
 * Roles: system, user, assistant, observation; chatml has no observation. Where the model's own
 * template has a system message for conversations without one (chat_template.h), chatml begins with
 * it, as the model was trained; an empty system message of the caller's keeps it away. No other
 * format adds one. With AGL_CHAT_CONTINUE the opening is left out, and chatml first closes the
 * answer
 * (<|im_end|> "\n"), since a kept sequence ends before the end token; GLM's answers need no
 * closing.
 *
 * Which one a model gets (chat_find(), the first line that fits and whose special tokens are all
 * in the vocabulary):
 *
 *   the chat template contains                             and the architecture is     gives
 *   <|im_start|>                                                                       chatml
 *   <arg_key>, or /nothink in template or vocabulary                                   none
 * (GLM-4.5) [gMASK]                                                Glm4ForCausalLM, glm4 glm-z1 if
 * it has <think>, else glm4-0414 [gMASK]                                                another or
 * unknown          glm4
 *   <|user|>, <|assistant|>, no [gMASK]                    GlmForCausalLM, glm         glm-edge
 *   (another template)                                                                 none
 *   (no template)                                          Glm4ForCausalLM, glm4       glm4-0414
 *   (no template), [gMASK] has Edge's id                   GlmForCausalLM, glm         glm-edge
 *   (no template)                                          GlmForCausalLM, glm,        glm4
 *                                                          ChatGLMModel, chatglm
 *   (no template)                                          another: <|im_start|> is
 *                                                          in the vocabulary           chatml
 *   (no template)                                          unknown                     chatml or
 * glm4 by the vocabulary (no template)                                          another none
 */
#ifndef AGL_CLIENT_CHAT_H
#define AGL_CLIENT_CHAT_H

#include "autoglm.h"

struct chat_format;

/* What a model's files say. Each may be NULL. */
struct chat_clues {
    const char *template;     /* chat_template.jinja, or of tokenizer_config.json */
    const char *architecture; /* config.json: architectures[0] */
    const char *model_type;   /* config.json */
};

/* Sets the tokenizer's format, NULL if none is known, and chatml's own system message. -ENOMEM. */
int chat_find(struct agl_tokenizer *tokenizer, const struct chat_clues *clues);

#endif
