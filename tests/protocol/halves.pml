/*
 * What is shared, and positions in rings.
 *
 * Positions count modulo two laps of the ring, the least that tells a slot's old number from its new
 * one, so that they wrap around all the time.
 */

#define CLIENT(s) (2 * (s))     /* the half that the client of session s writes */
#define DAEMON(s) (2 * (s) + 1) /* the half that the daemon writes for it */
#define OTHER(h) ((h) ^ 1)
#define HALVES (2 * SESSIONS)

/* The ring of a half; its reader owns the other half. */
#define SLOTS_MAX 4
#define SLOTS(h) (((h) & 1) -> EVENT_SLOTS : SUBMISSION_SLOTS)
#define LAPS(h) (2 * SLOTS(h))
#define NEXT(h, position) (((position) + 1) % LAPS(h))
#define FORWARD(h, from, to) (((to) + LAPS(h) - (from)) % LAPS(h)) /* to - from */

byte number[HALVES * SLOTS_MAX];  /* the sequence number at the beginning of a slot */
byte message[HALVES * SLOTS_MAX]; /* the rest of the slot: the position that it was written for */
byte cursor[HALVES];              /* the owner's, as the reader of the other half's ring */
byte sleep_word[HALVES];          /* the owner's */
#define NUMBER(h, position) number[(h) * SLOTS_MAX + (position) % SLOTS(h)]
#define MESSAGE(h, position) message[(h) * SLOTS_MAX + (position) % SLOTS(h)]
#define CURSOR_OF(h) cursor[OTHER(h)]

/* Private: the writer's and the reader's of a half's ring, and what the reader of a half's sleep
 * word has rung for. */
byte tail[HALVES];      /* ring_writer.tail */
byte head[HALVES];      /* ring_reader.head: messages copied */
byte published[HALVES]; /* ring_reader.published: the newest value stored in the cursor */
byte rung[HALVES];

/* Whether the slot of this position may be written: its last message has been copied. */
#define IS_FREE(h, position) (FORWARD(h, head[h], position) < SLOTS(h))

/* What must never be. */
bool is_overwritten; /* a message, before it was read */
bool is_wrong;       /* a message is not the one that the number promised */
bool is_mistrusted;  /* an honest reader is taken for a broken one */
bool is_full;        /* not a fault: the model's buffers are too small */
#define CHECK(fault, condition) fault = !(condition); assert(!fault)
