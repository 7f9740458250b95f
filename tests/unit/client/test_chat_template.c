/* The system message in ChatML templates, as models have them. */
#include <stdlib.h>
#include <string.h>

#include "client/chat_template.h"
#include "tests/support/test.h"

#define SMOLLM2                                                                                \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"     \
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging " \
    "Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "              \
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
#define QWEN25                                                                                    \
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0]['role'] == 'system' %}"      \
    "{{- messages[0]['content'] }}{%- else %}{{- 'You are Qwen.' }}{%- endif %}{%- else %}"       \
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]"          \
    "['content'] + '<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created " \
    "by Alibaba Cloud.<|im_end|>\\n' }}{%- endif %}{%- endif %}"

static void the_first_literal_is_found(void **state)
{
    static const struct {
        const char *template;
        const char *text;
    } cases[] = {
        {SMOLLM2, "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
        {QWEN25, "You are Qwen, created by Alibaba Cloud."},
        {"{{ \"<|im_start|>system\\nIt's \\\"a\\\"\\\\\\n\\tb<|im_end|>\" }}", "It's \"a\"\\\n\tb"},
        {"{% if x %}<|im_start|>system\nPlain \\n 'text'.<|im_end|>\n{% endif %}",
         "Plain \\n 'text'."},
        {"<|im_start|>system\n{{ x }}<|im_end|><|im_start|>system\nLater<|im_end|>", "Later"},
        {"'<|im_start|>system\\nA {brace}<|im_end|>'", "A {brace}"},
        {"'<|im_start|>system\\n' + text + '<|im_end|>'", NULL},
        {"'<|im_start|>system\\nYou are ' + name + '<|im_end|>'", NULL},
        {"'<|im_start|>system\\n<|im_end|>'", NULL},
        {"'<|im_start|>system You<|im_end|>'", NULL},
        {"<|im_start|>system\\nYou<|im_end|>", NULL},
        {"'<|im_start|>user\\nYou<|im_end|>'", NULL},
        {"'<|im_start|>system\\nno end", NULL},
        {"'<|im_start|>system\\nno end\\", NULL},
        {"'<|im_start|>system", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = (char *)"";
        assert_int_equal(chat_template_system(cases[i].template, &text), 0);
        if (!cases[i].text != !text || (text && strcmp(text, cases[i].text) != 0))
            fail_msg("%s: \"%s\"", cases[i].template, text ? text : "none");
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_first_literal_is_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
