#include "model/model_quant.h"

#include "model/gguf_pack.h"

static enum tensor_type choose(enum model_wide wide, enum tensor_type quant, enum tensor_type plain)
{
    switch (wide) {
    case MODEL_WIDE_Q8:
        return TENSOR_Q8;
    case MODEL_WIDE_KEEP:
        return plain;
    case MODEL_WIDE_QUANT:
        break;
    }
    return quant;
}

/* Of two choices for the same table, the one that loses less. */
static enum model_wide wider(enum model_wide a, enum model_wide b)
{
    if (a == MODEL_WIDE_KEEP || b == MODEL_WIDE_KEEP)
        return MODEL_WIDE_KEEP;
    return a == MODEL_WIDE_Q8 ? a : b;
}

bool model_quant_type(const struct safetensors_tensor *tensor, enum model_role role,
                      const struct model_options *options, enum tensor_type *ret_type)
{
    enum tensor_type plain;
    if (!safetensors_tensor_type(tensor, &plain))
        return role != MODEL_VECTOR && gguf_pack_type(tensor->source_type, ret_type);
    enum tensor_type quant = options->quant;
    *ret_type = plain;
    if (role == MODEL_VECTOR || !tensor_type_is_packed(quant))
        return true;
    if (role == MODEL_MATRIX)
        *ret_type = quant;
    else if (role == MODEL_EMBEDDING)
        *ret_type = choose(options->quant_embedding, quant, plain);
    else if (role == MODEL_HEAD)
        *ret_type = choose(options->quant_head, quant, plain);
    else
        *ret_type = choose(wider(options->quant_embedding, options->quant_head), quant, plain);
    return true;
}
