"""A grammar of small stories: about thirty plots, each with many ways to be told.

Templates: [a|b|c] is a choice (it may be nested, and an empty choice is allowed), {slot} is filled from the story's
cast. A plot is its text, a sequel for "What happened next?", and questions that the text answers.
"""
import re

from plots import MORE_PLOTS, MORE_REQUESTS
from words import ADJECTIVES, BOYS, GIRLS, STORY_ANIMALS, THINGS

PLACES = {  # the noun a request may name, and how a story says it
    "river": "by the river", "forest": "in the forest", "park": "in the park", "garden": "in the garden",
    "hill": "on the hill", "sea": "by the sea", "farm": "on the farm", "village": "in the village",
    "school": "at school", "market": "at the market", "island": "on the island", "field": "in the field",
    "lake": "by the lake", "mountain": "on the mountain", "cave": "near the cave", "beach": "on the beach",
    "bridge": "by the bridge", "pond": "by the pond", "meadow": "in the meadow", "old tree": "under the old tree",
    "castle": "near the castle", "mill": "by the old mill", "well": "by the well", "road": "on the road",
}
HEROES = """dragon princess prince king queen robot giant wizard fairy knight farmer baker sailor pirate unicorn dinosaur mole
crow swan donkey camel crocodile parrot lamb zebra giraffe panda seal worm ladybug bat goose teacher dwarf witch""".split()
HEROES += ["old man", "old woman", "polar bear", "little bird", "baby elephant"]
WOMEN, MEN = ("girl", "princess", "queen", "fairy", "witch", "old woman"), ("boy", "prince", "king", "wizard", "old man", "knight")
RELATIVES = ["mother", "father", "sister", "brother", "grandmother", "grandfather"]
FOODS = ["an apple", "a cake", "some bread", "a pear", "a cookie", "some soup", "a carrot", "some cheese", "some berries",
         "a sandwich", "some nuts", "a piece of pie"]
HOLDABLE = [t for t in THINGS if t not in ("big tree", "bridge", "tent", "rainbow", "swing", "nest", "star", "snowman")]
SKILLS = ["swim", "dance", "sing", "ride a bike", "climb", "read", "draw", "whistle", "skate", "play the flute", "bake"]


def article(noun):
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def expand(rng, text, cast=None):
    """Settles every choice, from the inside out, then fills the slots."""
    while True:
        found = re.search(r"\[([^\[\]]*)\]", text)
        if not found:
            break
        text = text[:found.start()] + rng.choice(found.group(1).split("|")) + text[found.end():]
    if cast:
        text = re.sub(r"\{(\w+)\}", lambda m: cast[m.group(1)] if m.group(1)[0].islower() or m.group(1) in cast
                      else upper(cast[m.group(1).lower()]), text)
    text = re.sub(r" +", " ", text).strip()
    return re.sub(r" ([.,!?])", r"\1", text)


def upper(text):
    return text[0].upper() + text[1:]


OPENINGS = """[Once upon a time, there was {a_hero} named {name}.|Once there was {a_hero} called {name}.|{name} was \
{a_hero}.|There once lived {a_hero}. {His} name was {name}.|{name} was {a_hero} who lived {place}.|Once upon a time, \
{a_hero} lived {place}. {His} name was {name}.|Far away, {place}, lived {a_hero} named {name}.|This is the story of \
{name}, {a_hero}.] """
ENDINGS = """[|||| {name} [slept very well|was very happy] that night.| {name} smiled all the way home.| It was a [good|\
wonderful|beautiful] day.| And {name} never forgot that day.| The end.| That was the best day of \
all.| And so the day ended well.]"""
# What a request may say of a plot.
REQUESTS = {
    "finds": "who finds {a_thing}", "lost": "[who gets lost|who cannot find the way home]", "share": "who [does not want to share|learns to share]",
    "dark": "who is [afraid|scared] of the dark", "learn": "who [wants to learn|learns] to {skill}", "storm": "[and a storm|in a big storm]",
    "seed": "[who plants a seed|and a small seed|and a flower]", "river": "who wants to cross the river", "birthday": "who has a birthday",
    "noise": "who hears a [strange noise|strange sound]", "race": "[and a race|who wins a race]", "broken": "who [breaks {a_thing}|tells a lie]",
    "star": "and a [little star|star]", "snow": "[and a snowman|in the snow|in winter]", "cake": "who [bakes a cake|wants to bake a cake]",
    "boat": "[in a boat|and a boat|who sails on the sea]", "wish": "who [has a wish|gets a wish]", "newfriend": "who [has no friends|finds a new friend|is lonely]",
    "tree": "and a tall tree", "sleep": "who [cannot sleep|can not sleep]", "help": "who [helps a friend|is very kind]", "fly": "who wants to fly",
    "map": "[who finds a treasure|and a treasure|and an old map]", "song": "who [likes to sing|sings very loudly]",
}

# (text, sequel, [(question, answer), ...]). Slots: name, hero, a_hero, he/him/his, place, thing, a_thing, friend, a_friend,
# fname, fhe/fhim/fhis, relative, food, skill.
PLOTS = {
    "finds": ("""[One day|One morning|One sunny day|After breakfast], {he} [went for a walk|was playing|was walking] {place}. \
[Suddenly {he}|Then {he}|There {he}] [saw|found] {a_thing} [in the grass|behind a stone|under a bush|between the flowers]. "[Whose {thing} \
is this|Who lost this {thing}]?" {he} [asked|thought]. {name} [looked around|looked left and right], but nobody was there. \
So {he} [asked everybody|went from house to house|asked all the animals]. At last {he} met {a_friend} named {fname}, who was [crying|very sad]. "I \
[lost|cannot find] my {thing}," said {fname}. "[Is it this one|Look! Is this yours]?" [asked|said] {name}. {fname} [jumped for joy|was so happy|\
laughed and danced]. "Thank you, {name}! [You are a true friend|You are very kind|Now I am happy again]." [From that day on, they were friends.|They \
played together until it was dark.|Then they shared {food}.]""",
              """The next day, {fname} came to visit {name}. {fhe} brought [the {thing}|{food}] and said, "[Let us play together|Let us \
share this]." They [played|laughed and played] all day {place}. [In the evening|At last] they were tired and happy.""",
              [("What did {name} find?", "{name} found {a_thing}."), ("Who lost the {thing}?", "{fname} lost the {thing}."),
               ("Where was {name}?", "{name} was {place}.")]),
    "lost": ("""[One day|One afternoon], {he} went [too far|very far] from home. [The sky grew dark|It became dark|It started to rain], and {he} did not know \
the way. "[Oh no, I am lost!|Where is my house?|How do I get home?]" [said|cried] {name}. [{He} sat down and began to cry.|{He} was afraid.|{He} was cold and hungry.] \
Then [a kind voice said|somebody said], "[Why are you crying|What is wrong], little {hero}?" It was {a_friend} named {fname}. "I \
cannot find my way home," said {name}. "[Do not worry|Do not be afraid]," said {fname}. "I know the way. [Come with me|Follow me]." They walked \
[over the hill|through the trees|along the path] [together|side by side] and [talked|sang a song]. Soon {name} saw [a light in the window|{his} house]. {His} {relative} \
[ran to {him}|was waiting at the door] and hugged {him}. "Thank you, {fname}!" said {name}.""",
             """The next morning, {name} wanted to thank {fname}. {He} took {food} and went to {fname}. This time {he} [looked at every \
tree and stone|dropped small white stones on the path], so {he} did not get lost. {fname} was very [happy|pleased], and they [ate|had breakfast] together.""",
             [("Who helped {name}?", "{fname} the {friend} helped {name}."), ("Why was {name} sad?", "{name} was sad because {he} was lost."),
              ("Who was waiting at home?", "{name}'s {relative} was waiting at home.")]),
    "share": ("""{He} had {a_thing} and [loved it very much|played with it every day]. One day, {a_friend} named {fname} came [along|by]. "[May I play with \
your {thing}|Can I have a turn with the {thing}]?" asked {fname}. "No!" said {name}. "It is mine." {fname} [was sad and went away|went away with tears in {fhis} eyes]. \
{name} played alone, but it was [no fun|boring|not fun at all]. {He} thought about {fname}. "[I was not kind|I was not nice to {fhim}]," {he} said. So {he} ran after \
{fname} and [called|said], "I am sorry. [We can share the {thing}|Let us play with the {thing} together]." {fname} smiled. They played [all afternoon|until the sun \
went down]. {name} learned that it is [more fun to share|better to share|nice to share].""",
              """The next day, {fname} came back with {food}. "You shared your {thing} with me," said {fname}. "Now I will share with you." \
They sat {place} and ate. {name} was [glad|happy] to have such a good friend.""",
              [("What did {name} have?", "{name} had {a_thing}."), ("What did {name} learn?", "{name} learned that it is good to share."),
               ("Who wanted to play?", "{fname} the {friend} wanted to play.")]),
    "dark": ("""{name} was [afraid of the dark|scared of the dark]. Every night {he} [hid under the blanket|could not sleep|looked under the bed]. One night, {his} {relative} [took \
{him} outside.|said, "Come with me."] "Look up," said {his} {relative}. {name} looked up and saw [a thousand stars|the big round moon|the moon and many stars]. \
"[The night is not bad|The dark is not bad|There is light in the dark]," said {his} {relative}. "[The stars are always there|The moon watches over you]." {name} [listened|sat very still]. {He} heard \
[an owl|the wind|the river] and [the song of the crickets|the leaves]. It was [beautiful|quiet and peaceful]. After that, {name} was not afraid [any more|of the dark any more].""",
             """The next night, {a_friend} named {fname} was afraid of the dark. {name} said, "Come, I will show you something." They went outside \
and looked at the stars. "It is beautiful," said {fname}. Now {fname} was not afraid any more.""",
             [("What was {name} afraid of?", "{name} was afraid of the dark."), ("What did {name} see?", "{name} saw the night sky."),
              ("Who helped {name}?", "{name}'s {relative} helped {name}.")]),
    "learn": ("""{name} wanted to learn to {skill}. [But it was hard|It was not easy]. The first time, {he} [fell down|failed|made a mistake]. The second time, {he} [failed again|\
made another mistake]. "I cannot do it," said {name}. {He} was [sad|angry|ready to give up]. Then {a_friend} named {fname} came by. "[Try again|Do not give up]," said {fname}. "[Nobody \
can do it on the first day|I also needed many days|Every day you will get a little better]." So {name} tried again and again, every day. After [a week|many days|a month], {he} could \
{skill} [very well|better than anyone]! "[You see|Look]," said {fname}, "[you only had to keep trying|you did it]!" {name} was [so proud|very proud and happy].""",
              """Soon everybody heard that {name} could {skill}. They all came to see it. {name} was a little shy at first, but then {he} began. All \
of them clapped. "Now I will teach you too," said {name}.""",
              [("What did {name} want to learn?", "{name} wanted to learn to {skill}."), ("Who helped {name}?", "{fname} the {friend} helped {name}."),
               ("How did {name} feel at the end?", "{name} felt proud and happy.")]),
    "storm": ("""One [day|evening], a big storm came. The wind [blew|howled] and the rain fell [hard|on the roof]. {name} was warm at home. [Then {he} heard a knock at the door|Suddenly somebody knocked at the door]. \
Outside stood {a_friend}, wet and cold. "My name is {fname}," it said. "[My home is full of water|The wind broke my house]. May I come in?" "[Of course|Yes, come in quickly]!" said {name}. {He} gave \
{fname} [a dry blanket|a warm blanket] and {food}. They sat by the fire and [told stories|listened to the rain]. In the morning the sun came out. {name} helped {fname} to [build a new home|repair the house]. \
"Thank you," said {fname}. "[I will never forget this|You have a big heart].\"""",
              """Some weeks later, {name} was in trouble. {He} could not reach {his} {thing}, which hung high in a tree. {fname} came at once. "You helped me in the storm," said {fname}. \
"Now I help you." Soon {name} had the {thing} again.""",
              [("Who knocked at the door?", "{fname} the {friend} knocked at the door."), ("What did {name} give to {fname}?", "{name} gave {fname} a blanket and something to eat."),
               ("What was the weather like?", "There was a big storm.")]),
    "seed": ("""One [spring day|morning], {he} found a [small|tiny] seed. "[What will it be|What can this be]?" {he} asked. {He} put it in the ground {place} and gave it water every day. But nothing happened. "\
[It does not grow|Nothing comes out]," said {name} sadly. "[Be patient|You must wait]," said {his} {relative}. {name} waited and waited. One morning, a small green leaf came out of the ground. [Each day it grew|\
It grew and grew]. In summer it was [a beautiful yellow flower|a tall flower|a small tree]. Even the [bees|birds] came to [visit|see it]. {name} was [proud|very happy]. "[It was good to wait|Good things need time]," {he} said.""",
             """In autumn, the plant gave {name} many new seeds. {He} gave one to every friend. {fname} the {friend} got one, too. The next spring, there were flowers everywhere {place}.""",
             [("What did {name} find?", "{name} found a seed."), ("What did {name} do with the seed?", "{name} put it in the ground and gave it water."),
              ("What did {name} learn?", "{name} learned to be patient.")]),
    "river": ("""One day, {name} wanted to go to the other side of the [river|water], but there was no bridge. {He} [could not swim|was afraid of the deep water]. [On the other side|There] {he} could see {a_friend} [waving|\
who called {him}]. It was {his} friend {fname}. "[How can I come to you?|I cannot come to you!]" called {name}. {fname} thought for a while. Then {fhe} had [an idea|a good idea]. {fhe_up} [pushed|pulled] a long [tree|piece of wood] over the water. \
[Slowly|Step by step], {name} walked over it. {He} did not look down. At last {he} was on the other side! "[You were very brave|That was brave]," said {fname}. They [ate {food}|played] in the sun [together|all day].""",
              """After that, {name} and {fname} wanted to build a real bridge. They carried wood and stones for many days. When the bridge was ready, all the animals used it, and they thanked the two friends.""",
              [("Who was on the other side?", "{fname} the {friend} was on the other side."), ("How did {name} cross the river?", "{name} walked over a piece of wood."),
               ("Could {name} swim?", "No, {name} did not like the deep water.")]),
    "birthday": ("""It was {name}'s birthday, but [nobody said a word about it|nobody came]. "[Did they all forget me|Does nobody remember]?" {he} thought. {He} went to {his} friend {fname} the {friend}, but {fname} was not at home. [{He} was very sad|\
{He} felt lonely] and walked slowly home. It was dark in the house. {He} opened the door. "Surprise!" [cried|called] everybody. There was a big cake with [five|six|seven|eight] candles. {fname} gave {him} {a_thing}. "[We did not forget you|How could we \
forget you]," said {fname}. {name} laughed [and blew out the candles|with joy].""",
                 """After the cake, they all played games. {name} showed everybody the {thing}. In the evening, {his} {relative} read a story, and {name} fell asleep with the {thing} in {his} arms.""",
                 [("What did {name} get?", "{name} got {a_thing}."), ("Why was {name} sad?", "{name} was sad because {he} thought that everybody forgot {him}."),
                  ("Who gave {name} the {thing}?", "{fname} gave it to {name}.")]),
    "noise": ("""One night, {name} heard a strange [sound|noise]. [Knock, knock, knock|Bump, bump, bump|Scratch, scratch, scratch]! "[What is that|Who is there]?" {he} [whispered|asked]. Nobody answered. {He} took a [lamp|light] and went [outside|to the door]. {His} heart beat fast. There, \
behind [the box|the door|a big stone], sat {a_friend}. It was shaking. "[I am only {fname}|I am {fname}, and I am very hungry]," it said. "I did not want to [frighten you|wake you]." {name} [laughed|smiled]. "[I was afraid of you, and you were afraid of me|You do not look dangerous]," {he} said. \
{He} brought {food}, and they [ate together|sat together and talked]. So {name} found a new friend in the night.""",
              """The next night, {name} waited for {fname}. Knock, knock, knock! This time {name} was not afraid. {He} opened the door at once. "Good evening, {fname}," {he} said. They ate {food} and looked at the moon.""",
              [("What did {name} hear?", "{name} heard a strange noise."), ("Who made the noise?", "{fname} the {friend} made the noise."),
               ("What did they eat?", "They ate {food}.")]),
    "race": ("""One day, there was a [big race|race] {place}. {fname} the {friend} was very fast and said, "[I will win|Nobody can beat me]!" {name} was not so fast, but {he} wanted to try. One, two, three, go! {fname} ran far ahead. Then {fname} [sat down to rest|stopped to eat {food}|lay down in \
the grass] and fell asleep. {name} did not stop. [Step by step|On and on], {he} went on. When {fname} woke up, {name} was [already at the end|the winner]! Everybody cheered. {fname} [came to {him}|was ashamed] and said, "[You won because you never stopped|Well done, {name}]." {name} gave {fhim} {fhis} hand. "[It was a good race|\
Next time we run together]," {he} said.""",
             """The next day, {fname} wanted another race. This time {fhe} did not sleep. They both ran as fast as they could and came to the end together. "Nobody lost today," said {name}, and they laughed.""",
             [("Who won the race?", "{name} won the race."), ("Who was very fast?", "{fname} the {friend} was very fast."), ("Why did {name} win?", "{name} won because {he} never stopped.")]),
    "broken": ("""{name} played with {his} {relative}'s {thing}, but {he} was not careful. Crash! The {thing} fell down and broke. {name} was [afraid|very sorry]. {He} [hid it under the bed|put it behind the door]. When {his} {relative} asked, "Where is my {thing}?", {name} said, "I do not know." But that night {he} could not sleep. \
In the morning {he} went to {his} {relative} and said, "I broke it, and I told a lie. I am sorry." {His} {relative} [took {him} in {his} arms|was quiet, and then smiled]. "[It is good that you told the truth|Thank you for telling me]," said {his} {relative}. "A {thing} can be repaired." Together they repaired it. {name} felt [light|much better].""",
               """From then on, {name} was very careful. One day, {fname} the {friend} broke {name}'s favorite cup. {fname} began to cry. "Do not cry," said {name}. "A cup can be repaired." And they repaired it together.""",
               [("What did {name} break?", "{name} broke the {thing}."), ("Why could {name} not sleep?", "{name} could not sleep because {he} told a lie."),
                ("What did {name} learn?", "{name} learned to tell the truth.")]),
    "star": ("""Every evening, {name} looked at the stars {place}. "I wish I had a star," {he} said. One night, a little star fell from the sky and landed [in the grass|near {his} feet]. [It was small and bright|It shone like a lamp]. "[Please help me|I want to go home]," said the star. "I fell down, and I miss my [sisters|mother]." {name} wanted to \
keep it. But the star was [so sad|crying]. So {he} climbed to the top of the highest [hill|tree] with the star in {his} [pocket|hand]. {fname} the {friend} came with {him}. There {name} [threw it up|lifted it up], as high as {he} could. The wind took it and carried it back to the sky. Now, each night, one star [shines a little brighter|winks] for {name}.""",
             """One dark night, {name} lost the way. There was no moon. Then {he} saw {his} star. It shone so brightly that {he} could see the path. "Thank you, little star," said {name}, and {he} came home safely.""",
             [("What fell from the sky?", "A little star fell from the sky."), ("Who went with {name}?", "{fname} the {friend} went with {name}."),
              ("Did {name} keep the star?", "No, {name} helped the star to go home.")]),
    "snow": ("""One morning, everything was white. "It snowed!" [cried|called] {name}. {He} put on a warm [coat|hat] and ran outside. {fname} the {friend} was there, too. "Let us build a snowman," said {fname}. They rolled [a big ball|three balls] of snow. They gave the snowman a carrot for a nose and {a_thing} [to hold|for fun]. \
"[He looks funny|He looks great]," laughed {name}. They played until their [feet|noses] were cold. Then they went inside and drank [hot milk|warm tea]. In spring, the sun came and the snowman [became smaller and smaller|melted]. {name} was sad. "[He will come back next winter|Do not be sad. Snow always comes back]," said {fname}.""",
             """When the next winter came, {name} and {fname} built a snowman again. This one was even bigger. They gave it the same {thing}. "Welcome back!" said {name}.""",
             [("What did they build?", "They built a snowman."), ("Who helped {name}?", "{fname} the {friend} helped {name}."), ("What did they drink?", "They drank something warm.")]),
    "cake": ("""{name} wanted to bake a cake for {his} {relative}. {He} took flour, milk and [eggs|two eggs]. But there was no [sugar|honey|butter]. So {he} went to {fname} the {friend}. "[Do you have some sugar for me|Can you help me]?" asked {name}. "[Yes|Of course], if I may have a piece of the cake," said {fname}. They mixed everything in a big bowl. \
There was flour [on the floor|on their noses|everywhere]! Then the cake went into the oven. Soon the house smelled [sweet|wonderful]. When {his} {relative} came home, the cake was ready. "[What a surprise!|Is this for me?]" said {his} {relative}. All three ate [cake|a big piece], and it was [delicious|the best cake ever].""",
             """There was one piece of cake left. {name} wanted to eat it, and {fname} wanted to eat it, too. So {name} cut it into two parts. "One for you and one for me," {he} said.""",
             [("What did {name} bake?", "{name} baked a cake."), ("Who helped {name}?", "{fname} the {friend} helped {name}."), ("Who was the cake for?", "The cake was for {name}'s {relative}.")]),
    "boat": ("""{name} had a small boat. One day, {he} [sailed|went] out on the [sea|lake] with {his} friend {fname} the {friend}. The sun was warm and the water was [blue|calm]. They saw [a big whale|many fish|a green turtle]. Then the wind became strong and the waves grew high. "[Hold on|Sit down]!" called {name}. A big wave took {fname}'s {thing}. \
The boat [went up and down|rocked], but {name} was [brave|calm]. {He} [looked for the light on the land|held the boat with all {his} strength]. At last they reached [a small island|the beach]. "[We are safe|We made it]!" said {fname}. And look! There on the sand lay the {thing}. The sea had brought it back.""",
             """In the evening the sea was calm again. {name} and {fname} went back to the boat and sailed home. {His} {relative} was waiting with {food}. They told the whole story, and nobody could believe it.""",
             [("Who was in the boat with {name}?", "{fname} the {friend} was in the boat with {name}."), ("What did the wave take?", "The wave took {fname}'s {thing}."),
              ("Where did they find the {thing}?", "They found the {thing} on the sand.")]),
    "wish": ("""One day, {he} found {a_thing} {place}. {He} [rubbed it|cleaned it] and a [small|kind] voice said, "[You have one wish|I can give you one wish]." {name} thought [for a long time|and thought]. "I could wish for [gold|a big house|a mountain of cakes]," {he} said. Just then {he} saw {a_friend} named {fname}, who [had a broken leg|was ill|was \
very thin and hungry]. {name} did not think any more. "I wish that {fname} is well again," {he} said. At once {fname} [stood up and danced|was strong and healthy]. "[You gave your wish to me|Why did you do that]?" asked {fname}. "[A friend is worth more than gold|Because you needed it more than I did]," said {name}.""",
             """That night, the voice spoke again. "You were kind," it said, "so you get one more wish." {name} smiled. "I have all I need," {he} said. "I have a good friend." And {he} put the {thing} back where {he} had found it.""",
             [("What did {name} find?", "{name} found {a_thing}."), ("What did {name} wish?", "{name} wished that {fname} was well again."), ("Who was ill?", "{fname} the {friend} was not well.")]),
    "newfriend": ("""{name} had no friends and felt [lonely|alone]. {He} always played alone {place}. One day, {he} saw {a_friend} [on the other side of the road|sitting alone under a tree]. {name} was shy, but {he} went over and said, "[Hello, my name is {name}|Hi, I am {name}]. What is your name?" "I am {fname}," said the {friend}. \
"[I am new here|I have no friends here]." "[Then we can be friends|Do you want to play with me]?" asked {name}. {fname} [nodded|smiled and nodded]. {name} showed {fhim} {his} {thing}, and they played with it [all day|until evening]. "[See you tomorrow|Will you come again tomorrow]?" said {name}. "[Yes|I will come every day]," said {fname}. Now {name} was not alone any more.""",
                  """The next day, {fname} came again and brought a surprise: a third friend! Now they were three, and they played even better games with the {thing}.""",
                  [("Why was {name} sad?", "{name} was sad because {he} had no friends."), ("Who became a friend of {name}?", "{fname} the {friend} became a friend of {name}."),
                   ("What did they play with?", "They played with the {thing}.")]),
    "tree": ("""There was a very tall tree {place}. [At the top hung {a_thing}|{name}'s {thing} was stuck at the top]. {name} wanted to get it, but {he} was too small. {He} jumped. {He} [threw a stick|shook the tree]. Nothing helped. {fname} the {friend} came by. "[Stand on my back|Climb on my back]," said {fname}. {name} did, but it was still too high. \
Then [a bird|a monkey|a squirrel] came, too, and stood on {name}'s head. Now they were high enough! Down came the {thing}. "[Together we are tall|Together we can do it]!" said {name}, and everybody laughed.""",
             """After that, the friends played with the {thing} every day. When somebody had a problem, they all said, "Together we are tall!" And it always helped.""",
             [("What was in the tree?", "The {thing} was in the tree."), ("Who helped {name}?", "{fname} the {friend} helped {name}."), ("Where was the tree?", "The tree was {place}.")]),
    "sleep": ("""It was late, but {name} could not sleep. {He} turned left and {he} turned right. [{He} counted stars.|{He} counted sheep.|{He} drank some water.] Nothing helped. So {he} got up and went to {his} {relative}. "[I cannot sleep|I am not tired]," said {name}. {His} {relative} [smiled|took {his} hand] and said, "[I will tell you a story|Listen, I will sing for you]." \
[It was about a small boat on a quiet sea|It was about the moon and a little cloud]. {name} listened. {His} eyes became [heavy|small]. Before the [story|song] ended, {name} was fast asleep. {His} {relative} put a blanket over {him} and said softly, "Good night.\"""",
              """In the morning, {name} woke up early. The sun was shining. "How did the story end?" {he} asked. "I will tell you tonight," said {his} {relative}. And {name} could hardly wait for the evening.""",
              [("Why did {name} get up?", "{name} got up because {he} could not sleep."), ("Who helped {name}?", "{name}'s {relative} helped {name}.")]),
    "help": ("""One [hot|cold|windy] day, {he} met {a_friend} {place}. The {friend} carried a [big|heavy] {thing} and was very tired. "[May I help you|Can I help you]?" asked {name}. "[Oh yes, please|That is very kind]," said the {friend}. "My name is {fname}. I must bring this {thing} to my [mother|sister|old uncle]." They carried it together, up the hill and down the hill. \
On the way they [sang|told jokes], and the {thing} [felt light|was not so heavy any more]. When they arrived, {fname} [gave {name} {food}|thanked {name}]. "[Work is easier when a friend helps|With a friend, everything is easier]," said {fname}.""",
             """Some days later, {name} had to carry wood for the winter. It was hard work. Then {fname} came and said, "You helped me. Now it is my turn." Soon all the wood was in the house.""",
             [("What did {fname} carry?", "{fname} carried the {thing}."), ("Who did {name} help?", "{name} helped {fname} the {friend}."), ("Where did they meet?", "They met {place}.")]),
    "fly": ("""{name} looked at the birds and said, "I want to fly, too." {He} made two wings of [paper|leaves and wood] and jumped from [a stone|a small hill]. Plop! {He} fell into [the mud|the grass|the water]. {fname} the {friend} saw it and laughed. Then {fname} helped {him} up. "You cannot fly," said {fname}, "but I know something [else|just as good]." \
They went to the [big swing|swing] {place}. {fname} pushed, and {name} went up, up, up into the sky. The wind was in {his} face. "[I am flying|It feels like flying]!" [cried|shouted] {name}.""",
            """The next day, it was {fname}'s turn on the swing. {name} pushed, and {fname} flew high. "You are right," said {fname}. "It is almost as good as wings.\"""",
            [("What did {name} want to do?", "{name} wanted to fly."), ("Who helped {name}?", "{fname} the {friend} helped {name}."), ("Where was the swing?", "The swing was {place}.")]),
    "map": ("""One rainy day, {name} found an old map in [a book|a box|the attic]. There was a red cross on it. "[A treasure|There must be a treasure]!" said {name}. {He} called {his} friend {fname} the {friend}, and they followed the map. They went [over the bridge|past the mill], then through [the dark forest|the tall grass], and at last they were {place}. They dug and dug. \
[Clonk!|Suddenly they hit something hard.] It was a box. In the box there was [only {a_thing}|{a_thing}] and a letter. The letter said, "[The real treasure is the friend who came with you|You found it together, so share it]." {name} looked at {fname}, and they both laughed.""",
            """{name} and {fname} put the box back in the ground. They wrote a new letter and hid the map again. "One day, somebody else will find it," said {name}.""",
            [("What did {name} find?", "{name} found an old map."), ("What was in the box?", "There was {a_thing} and a letter in the box."), ("Who went with {name}?", "{fname} the {friend} went with {name}.")]),
    "song": ("""{name} liked to sing, but {his} voice was [very loud|not nice]. "[Please stop|You are too loud]!" said the others. So {name} stopped singing and became [quiet|sad]. One day, {fname} the {friend} got lost in the fog. Nobody could see {fhim}. "[Sing, {name}|We need your voice]!" said the others. {name} sang as loudly as {he} could. Far away, \
{fname} heard the song and [followed it home|found the way back]. "[Your song saved me|Your voice brought me home]," said {fname}. From then on, everybody [liked|loved] {name}'s songs.""",
             """The next evening, there was a party {place}. Everybody asked {name} to sing. {fname} played the drum, and the others danced until late in the night.""",
             [("Who got lost?", "{fname} the {friend} got lost in the fog."), ("How did {fname} find the way?", "{fname} followed {name}'s song."), ("What did {name} like to do?", "{name} liked to sing.")]),
}
REQUESTS.update(MORE_REQUESTS)
PLOTS.update(MORE_PLOTS)
# Said now and then between the opening and the plot.
ASIDES = """[The sun was shining and the birds were singing.|{He} had a warm little house and a big heart.|{He} liked {food} and long walks.|{His} best friend was {his} {relative}.|\
Everybody there knew {him}.|{He} was always [curious|hungry|in a good mood].|{He} had [big eyes|a loud laugh|a soft voice] and liked {food}.|{He} lived there with {his} {relative}.|{He} liked to {skill} and to [sleep|dream|laugh].|\
Nobody was as {adj} as {name}.|Life was [quiet and good|never boring] there.|{name} had [two|three|many] [brothers|sisters] and {a_thing}.]"""


class Story:
    """One story: .text, .sequel, .questions, and the cast that a dialogue may talk about."""

    def __init__(self, rng, hero=None, thing=None, place=None, friend=None, plot=None, name=None, adjective=None):
        pick = rng.choice
        self.hero = hero or (pick(STORY_ANIMALS) if rng.random() < 0.65 else pick(["girl", "boy", pick(HEROES)]))
        girl = self.hero in WOMEN or (self.hero not in MEN and rng.random() < 0.5)
        if name:
            girl = name in GIRLS
        self.name = name or pick(GIRLS if girl else BOYS)
        self.adjective = adjective or pick(ADJECTIVES)
        self.friend = friend or pick([x for x in STORY_ANIMALS if x != self.hero])
        fgirl = rng.random() < 0.5
        fname = pick([n for n in (GIRLS if fgirl else BOYS) if n != self.name])
        self.thing = thing or pick(HOLDABLE)
        place_noun = place or pick(list(PLACES))
        plots = list(PLOTS)
        if thing:  # a thing that was asked for must come up
            plots = [p for p in plots if "thing}" in PLOTS[p][0]]
        if friend:
            plots = [p for p in plots if "friend}" in PLOTS[p][0]]
        if place:
            plots = [p for p in plots if "{place}" in PLOTS[p][0]]
        self.plot = plot or pick(plots)
        he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
        fhe, fhim, fhis = ("she", "her", "her") if fgirl else ("he", "him", "his")
        # A plot that plays somewhere of its own is not moved by the opening sentence.
        self.cast = dict(name=self.name, hero=self.hero, a_hero=article(f"{self.adjective} {self.hero}"), he=he, him=him,
                         his=his, He=upper(he), His=upper(his), place=PLACES[place_noun], thing=self.thing,
                         a_thing=article(self.thing), friend=self.friend, a_friend=article(self.friend), fname=fname,
                         fhe=fhe, fhim=fhim, fhis=fhis, fhe_up=upper(fhe), relative=pick(RELATIVES), food=pick(FOODS), adj=self.adjective,
                         a_hero2=article(pick([a for a in STORY_ANIMALS if a not in (self.hero, self.friend)])),
                         skill=pick(SKILLS))
        self.request = expand(rng, REQUESTS[self.plot], self.cast)
        text, sequel, questions = PLOTS[self.plot]
        body = expand(rng, text, self.cast)
        opening = expand(rng, OPENINGS, self.cast)
        if place and self.cast["place"] not in body:
            opening = expand(rng, "{name} was {a_hero} who lived {place}.", self.cast)
        if rng.random() < 0.4:
            aside = self.sentence(expand(rng, ASIDES, self.cast))
            if self.thing not in aside:
                opening += " " + aside
        self.text = f"{opening} {self.sentence(body)} {expand(rng, ENDINGS, self.cast)}".strip()
        self.sequel = self.sentence(expand(rng, sequel, self.cast)) + " " + expand(rng, ENDINGS, self.cast)
        self.sequel = self.sequel.strip()
        self.questions = [(self.sentence(expand(rng, q, self.cast)), self.sentence(expand(rng, a, self.cast)))
                          for q, a in questions]
        kind = self.hero
        self.questions += [(f"What was the name of the {kind}?", f"The name of the {kind} was {self.name}."),
                           (f"What was the {kind} called?", f"The {kind} was called {self.name}.")]
        self.questions += [(f"Who was {self.name}?", f"{self.name} was {self.cast['a_hero']}.")]

    @staticmethod
    def sentence(text):
        """Capital letters where an expanded slot starts a sentence."""
        text = re.sub(r'([.!?] "?)([a-z])', lambda m: m.group(1) + m.group(2).upper(), text)
        return upper(text)


if __name__ == "__main__":
    import random
    generator = random.Random(3)
    for plot_name in PLOTS:
        story = Story(generator, plot=plot_name)
        print(f"{plot_name}: {story.text}\n   NEXT {story.sequel}\n   {story.questions[:4]}\n")
