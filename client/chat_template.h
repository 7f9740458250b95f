/*
 * What is read of a chat template. Templates are programs, which are not run here.
 */
#ifndef AGL_CLIENT_CHAT_TEMPLATE_H
#define AGL_CLIENT_CHAT_TEMPLATE_H

/* The system message that a ChatML template puts before a conversation without one: the first text
 * between "<|im_start|>system" with a line end and "<|im_end|>" that stands there literally, as a
 * string in quotes or outside of all expressions. malloc'd; NULL if there is none, or it is empty.
 * -ENOMEM. */
int chat_template_system(const char *template, char **ret_text);

#endif
