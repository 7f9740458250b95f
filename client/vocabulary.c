#include "client/vocabulary.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- hashing --------------------------------------------------------------------------------- */

/* The hash of bytes is a polynomial, so that a token's prefixes and suffixes are hashed in one pass
 * each: h("ab") = h("a") * FACTOR + 'b'. */
#define FACTOR 0x9E3779B97F4A7C15ull

static uint64_t hash_bytes(const char *bytes, size_t length)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < length; i++)
        hash = hash * FACTOR + (uint8_t)bytes[i] + 1;
    return hash;
}

/* Spreads a hash over all its bits and cuts it to a table of `places` (a power of two). */
static uint32_t place_of(uint64_t hash, uint32_t places)
{
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93ull;
    hash ^= hash >> 32;
    return (uint32_t)hash & (places - 1);
}

static uint32_t pair_place(uint32_t left, uint32_t right, uint32_t places)
{
    return place_of(((uint64_t)left << 32 | right) * FACTOR, places);
}

/* ---- filling --------------------------------------------------------------------------------- */

void vocabulary_init(struct vocabulary *vocabulary)
{
    *vocabulary = (struct vocabulary){0};
    memset(vocabulary->byte_ids, 0xFF, sizeof vocabulary->byte_ids);
}

void vocabulary_fini(struct vocabulary *vocabulary)
{
    free(vocabulary->tokens);
    free(vocabulary->bytes);
    free(vocabulary->places);
    free(vocabulary->pairs);
    free(vocabulary->added);
    vocabulary_init(vocabulary);
}

/* Makes *array hold at least `needed` elements, doubling it. */
static int grow(void **array, uint32_t *capacity, uint64_t needed, size_t element_bytes)
{
    if (needed <= *capacity)
        return 0;
    uint64_t wanted = *capacity ? *capacity : 256;
    while (wanted < needed)
        wanted *= 2;
    if (wanted > UINT32_MAX)
        return -ENOMEM;
    void *larger = realloc(*array, wanted * element_bytes);
    if (!larger)
        return -ENOMEM;
    *array = larger;
    *capacity = (uint32_t)wanted;
    return 0;
}

static int32_t find_hashed(const struct vocabulary *vocabulary, uint64_t hash, const char *bytes,
                           size_t length)
{
    if (vocabulary->place_count == 0)
        return VOCABULARY_NONE;
    uint32_t place = place_of(hash, vocabulary->place_count);
    for (; vocabulary->places[place] >= 0; place = (place + 1) & (vocabulary->place_count - 1)) {
        int32_t id = vocabulary->places[place];
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        /* A token that turned special keeps its place here. */
        if (token->flags & VOCABULARY_ORDINARY && token->bytes == length &&
            memcmp(vocabulary->bytes + token->offset, bytes, length) == 0)
            return id;
    }
    return VOCABULARY_NONE;
}

static void put_id(struct vocabulary *vocabulary, int32_t id)
{
    const struct vocabulary_token *token = &vocabulary->tokens[id];
    uint32_t mask = vocabulary->place_count - 1;
    uint32_t place = place_of(hash_bytes(vocabulary->bytes + token->offset, token->bytes),
                              vocabulary->place_count);
    while (vocabulary->places[place] >= 0)
        place = (place + 1) & mask;
    vocabulary->places[place] = id;
}

/* Keeps at least half of the places empty. */
static int grow_places(struct vocabulary *vocabulary)
{
    if ((uint64_t)(vocabulary->ordinary_count + 1) * 2 <= vocabulary->place_count)
        return 0;
    uint32_t count = vocabulary->place_count ? vocabulary->place_count * 2 : 1024;
    int32_t *places = malloc(count * sizeof *places);
    if (!places)
        return -ENOMEM;
    memset(places, 0xFF, count * sizeof *places);
    int32_t *old = vocabulary->places;
    uint32_t old_count = vocabulary->place_count;
    vocabulary->places = places;
    vocabulary->place_count = count;
    for (uint32_t i = 0; i < old_count; i++)
        if (old[i] >= 0)
            put_id(vocabulary, old[i]);
    free(old);
    return 0;
}

/* Room for everything that one vocabulary_add() may need, so that it cannot fail half done. */
static int make_room(struct vocabulary *vocabulary, uint32_t id, size_t length)
{
    uint32_t old_capacity = vocabulary->token_capacity;
    int err = grow((void **)&vocabulary->tokens, &vocabulary->token_capacity, (uint64_t)id + 1,
                   sizeof *vocabulary->tokens);
    if (err < 0)
        return err;
    if (vocabulary->token_capacity > old_capacity)
        memset(vocabulary->tokens + old_capacity, 0,
               (vocabulary->token_capacity - old_capacity) * sizeof *vocabulary->tokens);
    err = grow((void **)&vocabulary->bytes, &vocabulary->bytes_capacity,
               (uint64_t)vocabulary->bytes_used + length, 1);
    if (err < 0)
        return err;
    err = grow((void **)&vocabulary->added, &vocabulary->added_capacity,
               (uint64_t)vocabulary->added_count + 1, sizeof *vocabulary->added);
    return err < 0 ? err : grow_places(vocabulary);
}

static void set_flags(struct vocabulary *vocabulary, uint32_t id, uint32_t flags)
{
    struct vocabulary_token *token = &vocabulary->tokens[id];
    if (flags & VOCABULARY_ADDED && !(token->flags & VOCABULARY_ADDED))
        vocabulary->added[vocabulary->added_count++] = id;
    bool was_ordinary = token->flags & VOCABULARY_ORDINARY;
    token->flags |= flags;
    if (token->flags & VOCABULARY_SPECIAL)
        token->flags &= (uint16_t)~VOCABULARY_ORDINARY;
    else if (!was_ordinary && token->flags & VOCABULARY_ORDINARY) {
        put_id(vocabulary, (int32_t)id);
        vocabulary->ordinary_count++;
    }
}

int vocabulary_add(struct vocabulary *vocabulary, uint32_t id, const char *bytes, size_t length,
                   uint32_t flags)
{
    if (id >= VOCABULARY_IDS_MAX || length == 0 || length > VOCABULARY_TOKEN_BYTES_MAX)
        return -ERANGE;
    if (flags & VOCABULARY_ORDINARY &&
        find_hashed(vocabulary, hash_bytes(bytes, length), bytes, length) != VOCABULARY_NONE)
        return -EEXIST;
    int err = make_room(vocabulary, id, length);
    if (err < 0)
        return err;

    struct vocabulary_token *token = &vocabulary->tokens[id];
    if (token->flags) {
        if (token->bytes != length || memcmp(vocabulary->bytes + token->offset, bytes, length) != 0)
            return -EEXIST;
        set_flags(vocabulary, id, flags);
        return 0;
    }
    *token = (struct vocabulary_token){
        .offset = vocabulary->bytes_used, .bytes = (uint16_t)length, .flags = VOCABULARY_USED};
    memcpy(vocabulary->bytes + vocabulary->bytes_used, bytes, length);
    vocabulary->bytes_used += (uint32_t)length;
    vocabulary->used_count++;
    if (id >= vocabulary->token_count)
        vocabulary->token_count = id + 1;
    if (length > vocabulary->longest_bytes)
        vocabulary->longest_bytes = (uint32_t)length;
    set_flags(vocabulary, id, flags);
    return 0;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static struct vocabulary_pair *find_pair(const struct vocabulary *vocabulary, uint32_t left,
                                         uint32_t right)
{
    uint32_t place = pair_place(left, right, vocabulary->pair_places);
    for (;; place = (place + 1) & (vocabulary->pair_places - 1)) {
        struct vocabulary_pair *pair = &vocabulary->pairs[place];
        if (pair->left == UINT32_MAX || (pair->left == left && pair->right == right))
            return pair;
    }
}

static int grow_pairs(struct vocabulary *vocabulary)
{
    if ((uint64_t)(vocabulary->pair_count + 1) * 3 <= (uint64_t)vocabulary->pair_places * 2)
        return 0;
    uint32_t count = vocabulary->pair_places ? vocabulary->pair_places * 2 : 1024;
    struct vocabulary_pair *pairs = malloc(count * sizeof *pairs);
    if (!pairs)
        return -ENOMEM;
    memset(pairs, 0xFF, count * sizeof *pairs);
    struct vocabulary_pair *old = vocabulary->pairs;
    uint32_t old_count = vocabulary->pair_places;
    vocabulary->pairs = pairs;
    vocabulary->pair_places = count;
    for (uint32_t i = 0; i < old_count; i++)
        if (old[i].left != UINT32_MAX)
            *find_pair(vocabulary, old[i].left, old[i].right) = old[i];
    free(old);
    return 0;
}

int vocabulary_add_pair(struct vocabulary *vocabulary, struct vocabulary_pair pair)
{
    int err = grow_pairs(vocabulary);
    if (err < 0)
        return err;
    struct vocabulary_pair *place = find_pair(vocabulary, pair.left, pair.right);
    if (place->left != UINT32_MAX)
        return -EEXIST;
    *place = pair;
    vocabulary->pair_count++;
    return 0;
}

static int add_cuts(struct vocabulary *vocabulary, uint32_t id)
{
    const struct vocabulary_token *token = &vocabulary->tokens[id];
    const char *bytes = vocabulary->bytes + token->offset;
    uint32_t length = token->bytes;
    uint64_t suffix[VOCABULARY_TOKEN_BYTES_MAX + 1]; /* hash of what begins at each byte */
    uint64_t power = 1;
    suffix[length] = 0;
    for (uint32_t i = length; i-- > 0;) {
        suffix[i] = suffix[i + 1] + power * ((uint8_t)bytes[i] + 1u);
        power *= FACTOR;
    }

    uint64_t prefix = 0;
    for (uint32_t cut = 1; cut < length; cut++) {
        prefix = prefix * FACTOR + (uint8_t)bytes[cut - 1] + 1;
        int32_t left = find_hashed(vocabulary, prefix, bytes, cut);
        if (left < 0)
            continue;
        int32_t right = find_hashed(vocabulary, suffix[cut], bytes + cut, length - cut);
        if (right < 0)
            continue;
        int err = vocabulary_add_pair(vocabulary, (struct vocabulary_pair){.left = (uint32_t)left,
                                                                           .right = (uint32_t)right,
                                                                           .rank = id,
                                                                           .merged = id});
        if (err < 0)
            return err;
    }
    return 0;
}

int vocabulary_add_all_pairs(struct vocabulary *vocabulary)
{
    for (uint32_t id = 0; id < vocabulary->token_count; id++) {
        if (!(vocabulary->tokens[id].flags & VOCABULARY_ORDINARY))
            continue;
        int err = add_cuts(vocabulary, id);
        if (err < 0)
            return err;
    }
    return 0;
}

/* ---- looking up ------------------------------------------------------------------------------ */

static int compare_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare_added(const void *a, const void *b, void *context)
{
    const struct vocabulary *vocabulary = context;
    const struct vocabulary_token *left = &vocabulary->tokens[*(const uint32_t *)a];
    const struct vocabulary_token *right = &vocabulary->tokens[*(const uint32_t *)b];
    return compare_text(vocabulary->bytes + left->offset, left->bytes,
                        vocabulary->bytes + right->offset, right->bytes);
}

int vocabulary_seal(struct vocabulary *vocabulary)
{
    uint32_t *added = vocabulary->added;
    if (vocabulary->added_count > 1)
        qsort_r(added, vocabulary->added_count, sizeof *added, compare_added, vocabulary);
    for (uint32_t i = 1; i < vocabulary->added_count; i++)
        if (compare_added(&added[i - 1], &added[i], vocabulary) == 0)
            return -EEXIST;
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        vocabulary->byte_ids[byte] = vocabulary_find(vocabulary, &text, 1);
    }
    return 0;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t length)
{
    if (length > vocabulary->longest_bytes)
        return VOCABULARY_NONE;
    return find_hashed(vocabulary, hash_bytes(bytes, length), bytes, length);
}

int32_t vocabulary_find_added(const struct vocabulary *vocabulary, const char *text, size_t length)
{
    uint32_t low = 0;
    uint32_t high = vocabulary->added_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint32_t id = vocabulary->added[middle];
        const struct vocabulary_token *token = &vocabulary->tokens[id];
        int order = compare_text(text, length, vocabulary->bytes + token->offset, token->bytes);
        if (order == 0)
            return (int32_t)id;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return VOCABULARY_NONE;
}

const struct vocabulary_pair *vocabulary_pair(const struct vocabulary *vocabulary, uint32_t left,
                                              uint32_t right)
{
    if (vocabulary->pair_places == 0)
        return NULL;
    const struct vocabulary_pair *pair = find_pair(vocabulary, left, right);
    return pair->left == UINT32_MAX ? NULL : pair;
}

const struct vocabulary_token *vocabulary_token(const struct vocabulary *vocabulary, uint32_t id)
{
    if (id >= vocabulary->token_count || !vocabulary->tokens[id].flags)
        return NULL;
    return &vocabulary->tokens[id];
}

const char *vocabulary_bytes(const struct vocabulary *vocabulary,
                             const struct vocabulary_token *token)
{
    return vocabulary->bytes + token->offset;
}
