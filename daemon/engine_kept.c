/* What is held without running: kept sequences, and the cache blocks of these and of extensions
 * that wait.
 *
 * When somebody has to give, it is the user who holds most, and he gives what he has not used for
 * the longest time. So nobody loses anything to another user who holds more, however fast that one
 * fills the place; who holds no more than his part, the whole by the number of users, keeps it. Of
 * several who hold the same, it is who has not added to it for the longest time. For that the users
 * are walked over, not their requests, of which there can be many thousands. */
#include "daemon/engine_state.h"

/* ---- who holds anything ---------------------------------------------------------------------- */

static void leave_holders(struct engine *engine, struct user_queue *user)
{
    if (!user->is_holding)
        return;
    if (user->previous)
        user->previous->next = user->next;
    else
        engine->holders.first = user->next;
    if (user->next)
        user->next->previous = user->previous;
    else
        engine->holders.last = user->previous;
    user->is_holding = false;
}

/* To the end of the list. */
static void join_holders(struct engine *engine, struct user_queue *user)
{
    leave_holders(engine, user);
    user->next = NULL;
    user->previous = engine->holders.last;
    if (user->previous)
        user->previous->next = user;
    else
        engine->holders.first = user;
    engine->holders.last = user;
    user->is_holding = true;
}

/* Who holds nothing may be gone at any moment. */
static void leave_without(struct engine *engine, struct user_queue *user)
{
    if (user->kept.count == 0 && user->idle_requests == 0)
        leave_holders(engine, user);
}

/* ---- who has to give ------------------------------------------------------------------------- */

typedef uint32_t weigh(const struct user_queue *user, uint32_t model);

static uint32_t weigh_kept(const struct user_queue *user, uint32_t model)
{
    return user->kept.count;
}

static uint32_t weigh_idle_requests(const struct user_queue *user, uint32_t model)
{
    return user->idle_requests;
}

static uint32_t weigh_idle_blocks(const struct user_queue *user, uint32_t model)
{
    return user->idle[model].blocks;
}

/* NULL: nobody holds any. */
static struct user_queue *heaviest(const struct engine *engine, weigh *weight, uint32_t model)
{
    struct user_queue *ret_user = NULL;
    uint32_t most = 0;
    for (struct user_queue *user = engine->holders.first; user; user = user->next) {
        uint32_t held = weight(user, model);
        if (held > most) {
            most = held;
            ret_user = user;
        }
    }
    return ret_user;
}

/* ---- sequences ------------------------------------------------------------------------------- */

void engine_add_kept(struct engine *engine, struct request *request)
{
    struct user_queue *user = request->session->queue;
    request_list_add(&user->kept, request);
    join_holders(engine, user);
}

void engine_remove_kept(struct engine *engine, struct request *request)
{
    struct user_queue *user = request->session->queue;
    request_list_remove(&user->kept, request);
    leave_without(engine, user);
}

struct request *engine_next_forgotten(const struct engine *engine)
{
    const struct user_queue *user = heaviest(engine, weigh_kept, 0);
    return user ? user->kept.first : NULL;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

void engine_add_idle(struct engine *engine, struct request *request)
{
    struct user_queue *user = request->session->queue;
    if (request->blocks.count == 0)
        return;
    request->holds_idle_blocks = true;
    user->idle[request->model].requests.link = REQUEST_BY_BLOCKS;
    request_list_add(&user->idle[request->model].requests, request);
    user->idle[request->model].blocks += request->blocks.count;
    user->idle_requests++;
    engine->models[request->model].idle_blocks += request->blocks.count;
    engine->idle_requests++;
    join_holders(engine, user);
}

void engine_remove_idle(struct engine *engine, struct request *request)
{
    struct user_queue *user = request->session->queue;
    if (!request->holds_idle_blocks)
        return;
    request->holds_idle_blocks = false;
    request_list_remove(&user->idle[request->model].requests, request);
    user->idle[request->model].blocks -= request->blocks.count;
    user->idle_requests--;
    engine->models[request->model].idle_blocks -= request->blocks.count;
    engine->idle_requests--;
    leave_without(engine, user);
}

void engine_take_blocks(struct engine *engine, struct request *request)
{
    engine_remove_idle(engine, request);
    kvcache_shrink(&engine->models[request->model].cache, &request->blocks, 0);
    if (request->state == REQUEST_QUEUED)
        engine_charge(engine, request, request->computed_tokens);
    request->computed_tokens = 0;
}

void engine_take_idle_blocks(struct engine *engine, const struct engine_model *model)
{
    uint32_t index = (uint32_t)(model - engine->models);
    struct user_queue *user = heaviest(engine, weigh_idle_blocks, index);
    assert(user);
    engine_take_blocks(engine, user->idle[index].requests.first);
}

/* Of the model of which he has most. */
static void take_one_of(struct engine *engine, struct user_queue *user)
{
    uint32_t most = 0;
    for (uint32_t i = 1; i < engine->model_count; i++) {
        if (user->idle[i].requests.count > user->idle[most].requests.count)
            most = i;
    }
    engine_take_blocks(engine, user->idle[most].requests.first);
}

void engine_trim_idle(struct engine *engine)
{
    while (engine->idle_requests > engine->config->kept_max)
        take_one_of(engine, heaviest(engine, weigh_idle_requests, 0));
}
