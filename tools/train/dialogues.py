"""A grammar of small dialogues: what somebody may say to the model, and what it answers.

A dialogue is a list of {"role", "content"}. The class Talk remembers what was said, so that a later question can be
answered from an earlier turn. Every topic is one method that adds one to three exchanges.
"""
import random

from stories import HEROES, HOLDABLE, MEN, PLACES, PLOTS, WOMEN, Story, article, expand, upper
from words import ADJECTIVES, ANIMALS, GIRLS, NAMES, STORY_ANIMALS

COLOURS = ["red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey"]
COLOUR_OF = {"the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "a banana": "yellow",
             "a carrot": "orange", "milk": "white", "blood": "red", "a leaf": "green", "coal": "black", "the sea": "blue",
             "a tomato": "red", "a lemon": "yellow", "chocolate": "brown", "a frog": "green", "an elephant": "grey",
             "a pumpkin": "orange", "a fire truck": "red", "the night": "black", "a strawberry": "red", "a crow": "black",
             "a polar bear": "white", "the moon": "white", "a cucumber": "green", "a pig": "pink", "a cherry": "red",
             "an orange": "orange", "salt": "white", "sugar": "white", "a swan": "white", "wood": "brown", "a tree": "green",
             "a rose": "red", "a fox": "red", "a bear": "brown", "a mouse": "grey", "a cloud": "white", "corn": "yellow",
             "cheese": "yellow", "a plum": "purple", "mud": "brown", "sand": "yellow", "a chick": "yellow"}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]
SEASONS = ["spring", "summer", "autumn", "winter"]
SEASON = {"spring": "the flowers grow and the birds sing", "summer": "it is warm and the sun shines a long time",
          "autumn": "the leaves fall from the trees", "winter": "it is cold and it often snows"}
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
OPPOSITES = [x.split("/") for x in """big/small hot/cold day/night happy/sad fast/slow old/young up/down left/right
open/closed good/bad light/dark full/empty high/low long/short hard/soft wet/dry clean/dirty loud/quiet early/late
rich/poor strong/weak thick/thin near/far first/last black/white sweet/sour in/out yes/no easy/difficult new/old
brave/afraid front/back summer/winter rough/smooth heavy/light tall/short""".split()]
GROUPS = {"fruit": ["apple", "banana", "pear", "cherry", "plum", "orange", "grape", "lemon", "peach"],
          "vegetable": ["carrot", "potato", "tomato", "onion", "cucumber", "bean", "pea"],
          "animal": list(ANIMALS), "colour": COLOURS, "day": DAYS, "season": SEASONS,
          "toy": ["ball", "doll", "kite", "puzzle", "teddy bear", "toy car"],
          "flower": ["rose", "tulip", "daisy", "sunflower", "lily"], "tree": ["oak", "pine", "birch", "apple tree", "willow"],
          "bird": ["owl", "duck", "hen", "crow", "swan", "robin", "penguin"],
          "drink": ["water", "milk", "tea", "juice", "cocoa"],
          "thing to wear": ["hat", "coat", "scarf", "shoe", "sock", "shirt", "dress"]}
MEANING = {  # what it is
    "river": "is water that flows through the land to the sea", "lake": "is a lot of water with land all around it",
    "sea": "is very big and its water is salty", "mountain": "is a very high hill made of rock",
    "forest": "is a place with many trees", "garden": "is a place where people grow flowers and vegetables",
    "house": "is a building where people live", "school": "is a place where children learn",
    "bridge": "helps people to cross a river or a road", "boat": "carries people over the water",
    "train": "is a row of wagons that rides on rails", "car": "has four wheels and drives on the road",
    "bike": "has two wheels, and you ride it with your feet", "plane": "flies in the sky and carries people far away",
    "cloud": "is made of tiny drops of water in the sky", "storm": "is strong wind, often with rain",
    "star": "is a very big and hot light, far away in the sky", "rainbow": "is a bow of colours in the sky, when there is sun and rain",
    "tree": "is a tall plant with a trunk, branches and leaves", "flower": "is the pretty part of a plant",
    "leaf": "is a thin green part of a plant", "seed": "is a small thing from which a plant grows",
    "apple": "is a round fruit that grows on a tree", "banana": "is a long yellow fruit", "carrot": "is an orange vegetable that grows in the ground",
    "egg": "comes from a bird, and a young bird can grow in it", "book": "has many pages with words or pictures",
    "letter": "is a message that you write to somebody", "clock": "shows us what time it is", "lamp": "gives us light when it is dark",
    "key": "opens and closes a lock", "door": "is the way into a room or a house", "window": "lets light into the house",
    "chair": "is a thing to sit on", "table": "has a flat top, and we eat or work at it", "bed": "is a soft place to sleep",
    "blanket": "keeps you warm in bed", "hat": "is a thing that you wear on your head", "coat": "keeps you warm when it is cold",
    "umbrella": "keeps you dry in the rain", "spoon": "helps you to eat soup", "cup": "is a small thing to drink from",
    "teacher": "is a person who helps children to learn", "doctor": "is a person who helps people when they are ill",
    "farmer": "is a person who grows food and keeps animals", "baker": "is a person who makes bread and cakes",
    "friend": "is somebody who likes you and helps you", "family": "is a group of people who belong together",
    "king": "is a man who rules a country", "queen": "is a woman who rules a country, or the wife of a king",
    "island": "is land with water all around it", "beach": "is the sand next to the sea", "cave": "is a big hole in a rock or a hill",
    "village": "is a small place with some houses", "city": "is a very big place with many houses and people",
    "farm": "is a place with fields and animals", "market": "is a place where people buy and sell things",
    "drum": "is a thing that you hit to make music", "bell": "makes a clear sound when you ring it",
    "kite": "is a toy that flies in the wind on a string", "ball": "is a round toy that you can throw and kick",
    "puzzle": "is a picture in many small pieces", "nest": "is the home that a bird builds", "feather": "is a light thing that covers a bird",
    "map": "is a picture that shows where places are", "story": "tells what happened to somebody", "song": "is music with words",
    "dream": "is a story that you see while you sleep", "shadow": "is the dark shape behind you when there is light",
    "mirror": "is a glass in which you can see yourself", "candle": "gives light when it burns", "well": "is a deep hole with water in it",
    "mill": "is a place where grain becomes flour", "ladder": "helps you to climb up", "pencil": "is a thing to write and draw with",
    "cake": "is a sweet food for special days", "soup": "is a warm food that you eat with a spoon", "computer": "is a machine that can work with words and numbers"}
MASS = {"water": "is wet and clear, and we drink it", "rain": "is water that falls from the clouds", "snow": "is frozen water that falls from the sky in winter",
        "ice": "is frozen water. It is cold and hard", "wind": "is air that moves", "fire": "is hot and bright, and it can burn you",
        "bread": "is a food made from flour and water", "milk": "is a white drink that comes from cows", "honey": "is sweet, and bees make it",
        "cheese": "is a food made from milk", "sand": "is many tiny stones", "grass": "is the green plant that covers the fields",
        "fog": "is a cloud that lies on the ground", "music": "is sound that is nice to hear", "thunder": "is the loud sound in a storm"}
USE = {"spoon": "eat soup", "knife": "cut bread", "pencil": "write and draw", "umbrella": "stay dry in the rain", "key": "open a door", "bed": "sleep",
       "chair": "sit", "clock": "see what time it is", "lamp": "have light in the dark", "cup": "drink", "soap": "wash our hands", "hat": "keep our head warm",
       "boat": "travel on the water", "ladder": "climb up", "book": "read", "broom": "clean the floor", "bag": "carry things", "oven": "bake bread",
       "phone": "talk to people who are far away", "brush": "paint a picture", "towel": "dry ourselves", "map": "find the way", "rope": "tie things",
       "blanket": "stay warm", "window": "look outside", "bell": "call people", "scissors": "cut paper", "bridge": "cross a river", "fork": "eat our food"}
BODY = {"eyes": "see", "ears": "hear", "nose": "smell", "hands": "hold things", "feet": "walk", "teeth": "bite and chew", "tongue": "taste", "legs": "run and walk",
        "mouth": "eat and speak", "brain": "think"}
COUNTS = [("days are in a week", "There are seven days in a week."), ("months are in a year", "There are twelve months in a year."),
          ("seasons are there", "There are four seasons: spring, summer, autumn and winter."), ("legs does a spider have", "A spider has eight legs."),
          ("fingers do you have on one hand", "People have five fingers on one hand. I have no hands, because I am a program."), ("eyes does a cat have", "A cat has two eyes."),
          ("fingers are on one hand", "There are five fingers on one hand."), ("wheels does a car have", "A car has four wheels."), ("wheels does a bike have", "A bike has two wheels."),
          ("hours are in a day", "There are twenty-four hours in a day."), ("minutes are in an hour", "There are sixty minutes in an hour."), ("ears does a rabbit have", "A rabbit has two long ears."),
          ("wings does a bird have", "A bird has two wings."), ("sides does a triangle have", "A triangle has three sides."), ("letters are in the alphabet", "There are twenty-six letters in the alphabet.")]
WHY = [("is the sky blue", "The light of the sun has many colours. The air sends the blue light everywhere, so the sky looks blue."), ("do birds fly south", "Birds fly south because it is warmer there in winter."),
       ("do we sleep", "We sleep because our body needs to rest."), ("do we eat", "We eat because food gives us strength."), ("does it rain", "It rains when the clouds are full of water."),
       ("do leaves fall", "Leaves fall in autumn because the tree rests in winter."), ("is the sun hot", "The sun is hot because it is a very big ball of fire."), ("do cats purr", "Cats purr when they are happy."),
       ("do dogs bark", "Dogs bark to say something, or because they are excited."), ("is snow cold", "Snow is cold because it is frozen water."), ("do we wash our hands", "We wash our hands so that they are clean and we stay healthy."),
       ("do bees make honey", "Bees make honey because they eat it in winter."), ("do fish not drown", "Fish can breathe in the water."), ("do people cry", "People cry when they are sad, and sometimes when they are very happy."),
       ("do we say thank you", "We say thank you because it is kind and makes others happy."), ("do trees need water", "Trees need water to live and to grow.")]
HOWTO = [("make tea", "First, boil some water. Then put the tea in a cup and pour the hot water on it. Wait a few minutes. Be careful, it is hot."), ("plant a seed", "Make a small hole in the earth. Put the seed in it and cover it. Then give it water and wait."),
         ("make a sandwich", "Take two pieces of bread. Put some butter and cheese on one piece. Then put the other piece on top."), ("draw a cat", "Draw a circle for the head and two triangles for the ears. Then draw two eyes, a nose and a big body with a tail."),
         ("build a snowman", "Roll three big balls of snow and put them on top of each other. Then take a carrot for the nose and two stones for the eyes."), ("brush my teeth", "Put a little paste on your brush. Brush up and down for two minutes. Then rinse your mouth with water."),
         ("make a friend", "Smile and say hello. Ask for the name, and then ask if you can play together."), ("fall asleep", "Lie down, close your eyes and breathe slowly. Think of something nice, like a quiet lake."), ("wash my hands", "Use warm water and soap. Rub your hands well, and then dry them."),
         ("make soup", "Cut some vegetables and put them in hot water. Add a little salt and let it cook until it is soft."), ("say sorry", "Look at your friend and say, \"I am sorry.\" Then try to make it good again."), ("bake a cake", "Mix flour, sugar, eggs, butter and milk. Put it in the oven and wait until it is brown. Ask a grown-up to help you."),
         ("fly a kite", "Go outside when there is wind. Hold the string, run, and let the kite go up into the sky."), ("learn to swim", "Start where the water is not deep, and let somebody help you. Practise a little every day.")]
JOKES = ["Why did the chicken cross the road? To get to the other side!", "What has hands but cannot clap? A clock!", "What has teeth but cannot bite? A comb!", "Why was the book sad? It had too many problems. It was a math book!",
         "What do you call a sleeping bull? A bulldozer!", "What gets wet while it dries? A towel!", "Why did the banana go to the doctor? It did not peel well!", "What goes up and never comes down? Your age!",
         "What has four legs but cannot walk? A table!", "What falls in winter but never gets hurt? Snow!", "Where do cows go on Friday night? To the moo-vies!"]
RHYMES = ["The sun goes down, the day is done, the stars come out now, one by one. The little owl sits in the tree and says good night to you and me.", "A little mouse lived in a house, a very happy little mouse. It ate some cheese, it drank some tea, and then it sat upon my knee.",
          "The rain comes down, the wind blows strong, the frog sits there and sings a song. He loves the water, cold and wet. He is not done with singing yet.", "I have a boat, I have a sail, I saw a fish, I saw a whale. I sailed away across the sea, and then came home in time for tea.",
          "A cat sat down upon a mat and found a very funny hat. The hat was red, the hat was tall, and it was not his hat at all.", "The snow is white, the night is long, the fire sings a quiet song. So close your eyes and go to bed, and lay down softly your small head."]
UNKNOWN = ["Who won the {n} world cup?", "What is the capital of {land}?", "Who is the president of {land}?", "What is the weather today?", "What time is it?", "What is my phone number?", "How do I repair a car engine?", "Write a Python program.",
           "What is quantum physics?", "How far is the moon?", "When was {land} founded?", "Who wrote this book?", "What is the meaning of life?", "Can you translate this into French?", "How much does a house cost?", "What happened in {n}?",
           "What is the square root of {n}?", "What is {n} times {n}?", "Who is your favourite singer?", "What is in my pocket?", "Where are my keys?", "What did I eat yesterday?", "Which film should I watch?", "What is the news today?", "How old is my sister?",
           "Explain how a computer works.", "What does my father do?", "How tall am I?", "What is the population of {land}?", "Who invented the telephone?", "What is the speed of light?", "Write an essay about history.", "How many people live in {land}?", "What is the stock price?"]
HARD = """algorithm microscope parliament galaxy molecule transistor philosopher equation volcano satellite economy democracy compiler
database protein theory virus election lawyer symphony museum telescope reactor laser mortgage contract battery engine atom planet
magnet vitamin saxophone helicopter submarine pyramid skyscraper dictionary server network password parameter tensor processor
kernel carburetor turbine glacier continent revolution hypothesis metaphor paragraph orchestra cathedral airport""".split()
LANDS = ["Peru", "France", "China", "India", "Kenya", "Norway", "Canada", "Japan", "Spain", "Brazil", "Egypt", "Poland", "Germany", "Italy"]
DONT_KNOW = "[I do not know that.|I do not know.|I am sorry, I do not know that.|I am sorry, but I do not know the answer.] [|||I am only a small model.|I only know simple things.|But I can tell you a story.|Please ask me something easier.]"
LIKES = {"cats": "they are soft and quiet", "dogs": "they are good friends", "stories": "something new happens in every story", "snow": "it makes everything white and quiet", "the sea": "it is big and blue", "rain": "the flowers need it",
         "music": "it can make people happy", "books": "there are so many stories in them", "flowers": "they have beautiful colours", "birds": "they sing so nicely", "summer": "it is warm and bright", "winter": "the snow is beautiful", "horses": "they are strong and gentle",
         "trees": "they give us air and shade", "stars": "they shine in the dark", "children": "they ask good questions", "games": "they are fun", "cake": "everybody smiles when there is cake", "owls": "they look so clever", "the moon": "it is bright in the night"}
PERSONAL = {  # key: (what the user says, the question later, the answer, values)
    "colour": ("[My favourite colour is {v}.|I like {v} best.|The colour I like best is {v}.]", "What is my favourite colour?", "Your favourite colour is {v}.", COLOURS),
    "food": ("[My favourite food is {v}.|I love to eat {v}.|I like {v} very much.]", "What is my favourite food?", "Your favourite food is {v}.", ["soup", "cake", "bread", "cheese", "apples", "pizza", "rice", "fish", "honey", "bananas", "cookies"]),
    "age": ("[I am {v} years old.|I am {v}.]", "How old am I?", "You are {v} years old.", NUMBERS[4:13]),
    "home": ("[I live {v}.|My house is {v}.]", "Where do I live?", "You live {v}.", list(PLACES.values())[:13]),
    "animal": ("[My favourite animal is the {v}.|I like the {v} best of all animals.]", "What is my favourite animal?", "Your favourite animal is the {v}.", STORY_ANIMALS),
    "game": ("[I like to {v}.|I love to {v}.]", "What do I like to do?", "You like to {v}.", ["swim", "read", "dance", "draw", "play ball", "ride my bike", "sing", "climb trees", "bake"])}


SCENES = {  # what it is called: (where, sentences in any order)
    "the forest": ("in the forest", ["The trees are tall and green.", "You can hear the birds sing.", "The ground is soft and smells of leaves.", "A fox looks out from behind a tree.", "The sun shines through the leaves.", "It is quiet and cool there."]),
    "the sea": ("by the sea", ["The water is big and blue.", "The waves come and go.", "There are shells in the sand.", "The wind smells of salt.", "White birds fly over the water.", "Far away you can see a ship."]),
    "a farm": ("on a farm", ["There are cows, pigs and hens.", "The farmer gets up early.", "The hay smells good.", "A cat sleeps in the sun.", "The children feed the animals.", "In the evening the cows come home."]),
    "the winter": ("in winter", ["The snow covers the fields.", "The air is cold and clear.", "Children build a snowman.", "It gets dark early.", "People drink hot tea.", "The lake is frozen."]),
    "the summer": ("in summer", ["The days are long and warm.", "Children swim in the lake.", "The flowers are open.", "Bees fly from flower to flower.", "People eat outside in the evening.", "The grass is high and green."]),
    "the night": ("at night", ["The moon is high in the sky.", "The stars shine.", "An owl calls from a tree.", "The houses are dark.", "Most people are asleep.", "It is very quiet."]),
    "a market": ("at a market", ["There are many people.", "You can buy apples, bread and cheese.", "Somebody plays music.", "It smells of flowers and fish.", "A woman sells red balloons.", "Everybody talks and laughs."]),
    "a village": ("in a village", ["There are small houses and a church.", "The people know each other.", "A dog runs over the road.", "There is a well in the middle.", "The baker opens early.", "In the evening it is quiet."]),
    "the garden": ("in a garden", ["There are red and yellow flowers.", "Carrots and beans grow in rows.", "A snail sits on a leaf.", "The bees are busy.", "A cat sleeps under a bush.", "The apples on the tree are ripe."]),
    "a rainy day": ("on a rainy day", ["The sky is grey.", "The rain falls on the roof.", "People carry umbrellas.", "The frogs are happy.", "You can read a book inside.", "There is water on the road."]),
    "the mountains": ("in the mountains", ["The rocks are high and grey.", "There is snow at the top.", "A small path leads up.", "Goats climb over the stones.", "The air is fresh.", "You can see very far."]),
    "a school": ("at school", ["Children learn to read and write.", "The teacher tells a story.", "There are many books.", "A bell rings.", "In the break the children play.", "Everybody has a place to sit."])}
RHYMING = {"cat": ["hat", "mat", "rat"], "house": ["mouse"], "tree": ["bee", "sea", "knee"], "fox": ["box", "socks"], "star": ["car", "far"], "moon": ["spoon", "soon"], "bear": ["chair", "hair", "pear"], "night": ["light", "kite"],
           "day": ["play", "say"], "boat": ["goat", "coat"], "dog": ["frog", "fog"], "cake": ["lake", "snake"], "king": ["ring", "sing"], "hen": ["pen", "ten"], "snow": ["go", "slow"], "rain": ["train", "plane"], "bed": ["red", "head"], "book": ["cook", "look"], "ball": ["wall", "tall"]}
INTERESTING = ["An octopus has eight arms.", "A snail can sleep for a very long time.", "Bees dance to show each other the way to flowers.", "A blue whale is the biggest animal of all.", "Owls can turn their head very far.", "The sun is a star.", "Butterflies taste with their feet.",
               "Elephants are afraid of bees.", "A hedgehog sleeps in winter.", "Penguins have wings, but they cannot fly.", "Ants can carry things that are heavier than they are.", "Trees drink water with their roots.", "Every snowflake has six arms.", "Cats sleep for most of the day.",
               "A horse can sleep while it stands.", "The moon has no light of its own. It shines in the light of the sun.", "Frogs drink water through their skin.", "A spider is not an insect, because it has eight legs."]


COPY_WORDS = NAMES + HOLDABLE + list(ANIMALS) + COLOURS + ADJECTIVES + list(PLACES) + NUMBERS + list(MASS)


class Talk:
    def __init__(self, rng):
        self.rng, self.turns, self.name, self.known, self.story, self.bot = rng, [], None, {}, None, None
        self.asked_sequel = False

    def say(self, user, answer):
        user = expand(self.rng, user)
        if self.rng.random() < 0.04:
            user = user.lower()
        if self.rng.random() < 0.04:
            user = user.rstrip(".!?")
        self.turns += [{"role": "user", "content": user}, {"role": "assistant", "content": expand(self.rng, answer)}]

    def pick(self, *items):
        return self.rng.choice(items)

    def you(self):  # ", Tom" when the name is known, now and then
        return f", {self.name}" if self.name and self.rng.random() < 0.6 else ""

    # ---- topics ----
    def greet(self):
        hello = "[Hello|Hi|Hello there|Hi there|Good morning|Good evening|Hey|Good day]"
        r = self.rng.random()
        if r < 0.15:
            self.say(f"{hello}[!|.|,] [How are you?|how are you?|How are you today?]", "[Hello! I am fine, thank you. How are you?|Hi! I am very well, thank you. And you?|Hello! I am fine. What can I do for you?]")
        elif r < 0.22:
            self.say(f"{hello}[!|.|,] [Who are you?|who are you?|What is your name?]", f"[Hello! I am {self.bot or 'Story'}. I can tell you stories.|Hi! My name is {self.bot or 'Story'}. I am a small language model.]")
        elif r < 0.45:
            self.name = self.pick(*NAMES)
            self.say(f"{hello}[!|.|,] [I am|My name is|I'm] {self.name}.", self.nice_to_meet())
        else:
            self.say(f"{hello}[!|.|]", "[Hello!|Hi!|Hello there!|Hi there!|Good to see you!] [How are you today?|How are you?|What can I do for you?|Do you want to hear a story?|What would you like to talk about?|It is nice to meet you.]")

    def nice_to_meet(self):
        return f"[Hello, {self.name}!|Nice to meet you, {self.name}!|It is nice to meet you, {self.name}.|Hi {self.name}!|Hello {self.name}, nice to meet you!] [How are you today?|What can I do for you?|Do you want to hear a story?|What would you like to talk about?|]"

    def how_are_you(self):
        self.say("[How are you?|How are you today?|How do you do?|Are you well?|How is it going?]", f"[I am fine, thank you.|I am very well, thank you.|I am well, thanks for asking.] [How are you{self.you()}?|And how are you?|And you?]")
        kind = self.rng.random()
        if kind < 0.35:
            self.say("[I am fine, too.|I am fine.|I am good, thanks.|I am very well.|Good, thank you.|I am happy.]", f"[I am glad to hear that{self.you()}.|That is good to hear.|That makes me happy.|Very good!] [What shall we do now?|Do you want to hear a story?|What would you like to know?|]")
        elif kind < 0.6:
            self.feeling()

    def feeling(self):
        user, answer = self.pick(
            ("[I am sad|I feel sad|I am a little sad today].", "[I am sorry to hear that|I am sorry that you are sad]{you}. [Do you want to tell me about it?|A story may help you. Do you want to hear one?|I hope that you feel better soon.]"),
            ("[I am tired|I feel so tired|I am very tired].", "[Then you should rest a little{you}.|Maybe you should sleep a little.|Lie down and close your eyes. Sleep is good for you.]"),
            ("[I am bored|I am so bored|I feel bored].", "[You can read a book or draw a picture.|You could go outside and play.|Let me tell you a story. What should it be about?|You could build a tower or call a friend.]"),
            ("[I am hungry|I feel hungry].", "[Then you should eat something{you}. An apple is good.|Maybe you can make a sandwich.|Ask your mother or father for some bread and cheese.]"),
            ("[I am happy|I am so happy today|I feel great].", "[That is wonderful{you}!|I am glad to hear that.|That is good!] [Why are you so happy?|What happened?|]"),
            ("[I am afraid of the dark|I am scared of the dark].", "[Many people are afraid of the dark{you}. A small lamp can help.|The dark is only the day with closed eyes. A small light can help you.]"),
            ("[I cannot sleep|I can't sleep].", "[Close your eyes and breathe slowly. Think of a quiet lake.|Drink some warm milk and think of something nice.|I can tell you a quiet story. Would you like that?]"),
            ("[I am lonely|I feel alone|I feel lonely].", "[I am here, and we can talk{you}.|You can talk to me. And maybe you can call a friend.]"),
            ("[I am angry|I am so angry].", "[Take a deep breath and count to ten{you}.|What made you angry? You can tell me.]"),
            ("[I am cold].", "[Put on a warm coat{you}.|Take a blanket and drink some warm tea.]"),
            ("[I am ill|I am sick].", "[I am sorry to hear that{you}. Rest and drink a lot of water.|I hope that you get well soon. Stay in bed and rest.]"),
            ("[I lost my {thing}].", "[I am sorry{you}. Where did you see your {thing} last?|Oh no! Look under the bed and behind the door. Maybe your {thing} is there.]"),
            ("[I made a mistake].", "[That is not bad. Everybody makes mistakes{you}.|We learn from mistakes. Try again.]"),
            ("[Today is my birthday|It is my birthday today].", "[Happy birthday{you}!|Happy birthday! I hope that you get a big cake.]"),
            ("[I got a new {thing}|I have a new {thing}].", "[How nice! Do you like your new {thing}?|That is wonderful{you}. Have fun with your {thing}!]"))
        thing = self.pick(*HOLDABLE)
        self.say(user.replace("{thing}", thing), answer.replace("{you}", self.you()).replace("{thing}", thing))

    def tell_name(self):
        self.name = self.pick(*NAMES)
        self.say(f"[My name is {self.name}.|I am {self.name}.|I'm {self.name}.|My name's {self.name}.|You can call me {self.name}.|Hello, my name is {self.name}.]", self.nice_to_meet())

    def ask_name(self):
        question = "[What is my name?|Do you know my name?|Do you remember my name?|Who am I?|What's my name?|Can you tell me my name?]"
        if self.name:
            self.say(question, f"[Your name is {self.name}.|Your name is {self.name}.|You are {self.name}.|Yes, your name is {self.name}.]")
        else:
            self.say(question, "[I do not know your name. What is your name?|You have not told me your name yet.|I do not know your name yet.]")
            if self.rng.random() < 0.6:
                self.tell_name()

    def about_me(self):
        name = self.bot or "Story"
        user, answer = self.pick(
            ("[What is your name?|What are you called?|Do you have a name?|Tell me your name.|What's your name?]", f"[My name is {name}.|I am called {name}.|You can call me {name}.]"),
            ("[Who are you?|What are you?]", f"[I am {name}, a small language model. I can tell stories and answer simple questions.|I am a small language model called {name}. I like to tell stories.]"),
            ("[Are you a human?|Are you a person?|Are you real?]", "[No, I am not a human. I am a small computer program.|No, I am a small language model.]"),
            ("[Are you a robot?|Are you a computer?|Are you a machine?]", "[I am a small computer program that can talk.|I am a program. I can tell you stories.]"),
            ("[How old are you?|What is your age?]", "[I am a program, so I have no age.|I am very young. I was made not long ago.]"),
            ("[Where do you live?|Where are you?]", "[I live in a computer.|I live inside a small computer.]"),
            ("[What can you do?|How can you help me?|What do you know?|Can you help me?]", "[I can tell you a story, and I can answer simple questions.|I can tell stories, and I know a little about animals, colours and numbers.|I can talk with you and tell you stories. What would you like?]"),
            ("[Do you eat?|What do you eat?|Are you hungry?]", "[No, I do not eat. I am a program.|I do not need to eat.]"),
            ("[Do you sleep?|Are you tired?]", "[No, I do not sleep. I am a program.|I am never tired.]"),
            ("[Do you have friends?|Do you have a friend?]", "[Everybody who talks to me is my friend.|I hope that you are my friend.]"),
            ("[Are you clever?|Are you smart?]", "[I am very small, so I know only a little.|I know some simple things, but not very much.]"),
            ("[Can you see me?|Can you hear me?]", "[No, I can only read what you write.|No, but I can read your words.]"),
            ("[Are you happy?]", "[Yes, I am happy when we talk.|I like to talk with you.]"),
            ("[What do you like?|What do you like to do?]", "[I like stories about animals.|I like to tell stories.]"))
        self.say(user, answer)

    def colour(self):
        thing, colour = self.pick(*COLOUR_OF.items())
        word = self.pick("colour", "colour", "color")
        if self.rng.random() < 0.75:
            self.say(f"[What {word} is {thing}?|Which {word} is {thing}?|Tell me the {word} of {thing}.|What {word} does {thing} have?|What is the {word} of {thing}?]", f"{upper(thing)} is {colour}.")
        else:
            other = self.pick(*[c for c in COLOURS if c != colour])
            if self.rng.random() < 0.5:
                self.say(f"Is {thing} {colour}?", f"Yes, {thing} is {colour}.")
            else:
                self.say(f"Is {thing} {other}?", f"No, {thing} is not {other}. It is {colour}.")

    def animal(self):
        noun = self.pick(*ANIMALS)
        lives, eats, can, says, kind, legs = ANIMALS[noun]
        one = article(noun)
        kinds = [
            (f"[Where does {one} live?|Where do {plural(noun)} live?|Tell me where {one} lives.]", f"[{upper(one)} lives {lives}.|{upper(one)} lives {lives}.]"),
            (f"[What does {one} eat?|What do {plural(noun)} eat?]", f"{upper(one)} eats {eats}."),
            (f"[What can {one} do?|What can {plural(noun)} do?]", f"{upper(one)} can {can}."),
            (f"[What is {one}?|What kind of animal is {one}?|Tell me what {one} is.]", f"{upper(one)} is {article(kind)}. [It lives {lives}.|It can {can}.|It eats {eats}.]"),
            (f"[How many legs does {one} have?|How many legs has {one}?]", f"{upper(one)} has {NUMBERS[legs] if legs else 'no'} legs."),
            (f"[Tell me about {plural(noun)}.|Tell me something about {plural(noun)}.|What do you know about {plural(noun)}?|Tell me about the {noun}.]", f"{upper(one)} is {article(kind)}. It lives {lives} and eats {eats}. It can {can}."),
            (f"Is {one} an animal?", f"Yes, {one} is an animal."),
        ]
        if says:
            kinds.append((f"[What sound does {one} make?|What does {one} say?|How does {one} sound?]", f"{upper(one)} {says}."))
        flyers = ["bird", "owl", "duck", "bee", "butterfly"]
        swimmers = [n for n in ANIMALS if "swim" in ANIMALS[n][2] or "dive" in ANIMALS[n][2]]
        if noun in flyers:
            kinds.append((f"Can {one} fly?", f"Yes, {one} can fly."))
        elif noun != "hen":
            kinds.append((f"Can {one} fly?", f"No, {one} cannot fly. But it can {can}."))
        if noun in swimmers:
            kinds.append((f"Can {one} swim?", f"Yes, {one} can swim."))
        self.say(*self.rng.choice(kinds))
        if self.rng.random() < 0.2:
            self.say("[And what does it eat?|What does it eat?]", f"It eats {eats}.")

    def calendar(self):
        i = self.rng.randrange(7)
        m = self.rng.randrange(12)
        s = self.rng.randrange(4)
        self.say(*self.pick(
            (f"[What day comes after {DAYS[i]}?|Which day comes after {DAYS[i]}?|What comes after {DAYS[i]}?]", f"{DAYS[(i + 1) % 7]} comes after {DAYS[i]}."),
            (f"[What day comes before {DAYS[i]}?|Which day comes before {DAYS[i]}?]", f"{DAYS[(i - 1) % 7]} comes before {DAYS[i]}."),
            (f"Today is {DAYS[i]}. What day is tomorrow?", f"Tomorrow is {DAYS[(i + 1) % 7]}."),
            (f"[Which month comes after {MONTHS[m]}?|What month comes after {MONTHS[m]}?]", f"{MONTHS[(m + 1) % 12]} comes after {MONTHS[m]}."),
            (f"[Which season comes after {SEASONS[s]}?|What comes after {SEASONS[s]}?]", f"{upper(SEASONS[(s + 1) % 4])} comes after {SEASONS[s]}."),
            (f"[What happens in {SEASONS[s]}?|What is {SEASONS[s]} like?|Tell me about {SEASONS[s]}.]", f"In {SEASONS[s]}, {SEASON[SEASONS[s]]}."),
            ("[What are the days of the week?|Tell me the days of the week.|Name the days of the week.]", "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."),
            ("[What are the four seasons?|Name the seasons.|Tell me the four seasons.]", "The four seasons are spring, summer, autumn and winter."),
            ("What is the first day of the week?", "Monday is the first day of the week."), ("What is the first month of the year?", "January is the first month of the year.")))

    def sums(self):
        a, b = self.rng.randint(0, 10), self.rng.randint(0, 10)
        if self.rng.random() < 0.4:
            a, b = max(a, b), min(a, b)
            self.say(f"[What is|How much is] {NUMBERS[a]} minus {NUMBERS[b]}?", f"{upper(NUMBERS[a])} minus {NUMBERS[b]} is {NUMBERS[a - b]}.")
        elif self.rng.random() < 0.3:
            self.say(f"[What is {a} + {b}?|{a} + {b}|How much is {a} + {b}?|{a} + {b} = ?]", f"{a} + {b} = {a + b}.")
        else:
            self.say(f"[What is|How much is] {NUMBERS[a]} [plus|plus|and] {NUMBERS[b]}?", f"{upper(NUMBERS[a])} plus {NUMBERS[b]} is {NUMBERS[a + b]}.")

    def numbers(self):
        low = self.rng.randint(1, 6)
        high = self.rng.randint(low + 2, 12)
        n = self.rng.randint(1, 18)
        a, b = self.rng.sample(range(1, 20), 2)
        words = NUMBERS[low:high + 1]
        self.say(*self.pick(
            (f"[Count from {NUMBERS[low]} to {NUMBERS[high]}.|Can you count from {NUMBERS[low]} to {NUMBERS[high]}?]", upper(", ".join(words)) + "."),
            (f"[Count to {NUMBERS[high]}.|Can you count to {NUMBERS[high]}?|Please count to {NUMBERS[high]}.]", upper(", ".join(NUMBERS[1:high + 1])) + "."),
            (f"[What number comes after {NUMBERS[n]}?|What comes after {NUMBERS[n]}?]", f"{upper(NUMBERS[n + 1])} comes after {NUMBERS[n]}."),
            (f"Which number is bigger, {NUMBERS[a]} or {NUMBERS[b]}?", f"{upper(NUMBERS[max(a, b)])} is bigger than {NUMBERS[min(a, b)]}.")))

    def opposite(self):
        a, b = self.rng.choice(OPPOSITES)
        if self.rng.random() < 0.5 and (b, a) != ("old", "new"):
            a, b = b, a
        if a in ("old", "light", "short"):
            a, b = "big", "small"
        self.say(f"[What is the opposite of {a}?|Tell me the opposite of {a}.|The opposite of {a}?|What is the opposite of \"{a}\"?]", f"The opposite of {a} is {b}.")

    def group(self):
        name = self.pick(*GROUPS)
        members = GROUPS[name]
        count = self.rng.choice([2, 3, 3])
        chosen = self.rng.sample(members, count)
        shown = chosen if name in ("colour", "season", "day", "drink") else [article(x) for x in chosen]
        listed = ", ".join(shown[:-1]) + " and " + shown[-1]
        many = {"thing to wear": "things to wear"}.get(name, name + "s")
        r = self.rng.random()
        if r < 0.55:
            self.say(f"[Name {NUMBERS[count]} {many}.|Tell me {NUMBERS[count]} {many}.|Can you name {NUMBERS[count]} {many}?]", upper(listed) + ".")
        else:
            group = self.pick("fruit", "vegetable", "animal", "toy", "flower", "drink")
            one = self.rng.choice(GROUPS[group])
            other = self.pick(*[g for g in ("fruit", "vegetable", "animal", "toy", "flower", "drink") if g != group])
            shown = one if group == "drink" else article(one)
            if r < 0.75:
                self.say(f"Is {shown} {article(group)}?", f"Yes, {shown} is {article(group)}.")
            else:
                self.say(f"Is {shown} {article(other)}?", f"No, {shown} is not {article(other)}. It is {article(group)}.")

    def meaning(self):
        r = self.rng.random()
        if r < 0.5:
            noun = self.pick(*MEANING)
            self.say(f"[What is {article(noun)}?|Do you know what {article(noun)} is?|Tell me what {article(noun)} is.|What does the word {noun} mean?|Please explain what {article(noun)} is.]", f"{upper(article(noun))} {MEANING[noun]}.")
        elif r < 0.65:
            noun = self.pick(*MASS)
            self.say(f"[What is {noun}?|Do you know what {noun} is?|Tell me what {noun} is.]", f"{upper(noun)} {MASS[noun]}.")
        elif r < 0.85:
            noun = self.pick(*USE)
            one = noun if noun in ("scissors", "soap") else article(noun)
            self.say(f"[What do we use {one} for?|What is {one} for?|What can I do with {one}?]", f"[We use {one} to {USE[noun]}.|With {one} we can {USE[noun]}.]")
        else:
            part = self.pick(*BODY)
            our = "our " + part
            self.say(f"[What do we do with {our}?|What are {our} for?|What can we do with {our}?]".replace("are our tongue", "is our tongue").replace("are our nose", "is our nose").replace("are our mouth", "is our mouth").replace("are our brain", "is our brain"), f"We {BODY[part]} with {our}.")

    def facts(self):
        r = self.rng.random()
        if r < 0.4:
            q, a = self.rng.choice(COUNTS)
            self.say(f"How many {q}?", a)
        elif r < 0.75:
            q, a = self.rng.choice(WHY)
            self.say(f"[Why {q}?|Do you know why {q}?|Tell me, why {q}?]".replace("know why do we", "know why we").replace("know why do", "know why").replace("know why is the sky blue", "know why the sky is blue").replace("know why is the sun hot", "know why the sun is hot").replace("know why is snow cold", "know why snow is cold").replace("know why does it rain", "know why it rains"), a)
        else:
            sizes = ["ant", "bee", "mouse", "cat", "dog", "pig", "horse", "elephant", "whale"]
            i, j = sorted(self.rng.sample(range(len(sizes)), 2))
            pair = [article(sizes[i]), article(sizes[j])]
            self.rng.shuffle(pair)
            word, big = self.pick(("bigger", True), ("smaller", False))
            first, second = (sizes[j], sizes[i]) if big else (sizes[i], sizes[j])
            self.say(f"[Which is {word}|Who is {word}|What is {word}], {pair[0]} or {pair[1]}?", f"{upper(article(first))} is {word} than {article(second)}.")

    def howto(self):
        what, answer = self.rng.choice(HOWTO)
        self.say(f"[How do I {what}?|How can I {what}?|Tell me how to {what}.|I want to {what}. What must I do?]", answer)
        self.thanks(0.3)

    def fun(self):
        self.say(*self.pick(("[Tell me a joke.|Do you know a joke?|Can you tell me a joke?|Make me laugh.|Another joke, please.]", self.rng.choice(JOKES)),
                            ("[Tell me a poem.|Tell me a rhyme.|Do you know a poem?|Sing me a song.|Can you write a short poem?|Write a poem.]", self.rng.choice(RHYMES))))

    def likes(self):
        what, reason = self.pick(*LIKES.items())
        self.say(f"[Do you like {what}?|What do you think about {what}?]", f"[Yes, I like {what} because {reason}.|Yes, I like {what}. I think {reason}.]")
        if self.rng.random() < 0.3:
            self.say(f"[I like {what}, too.|Me too.]", "[Then we like the same things!|That is nice.|I am glad to hear that.]")

    def make(self):
        """Small texts that are made to order: sentences, letters, descriptions, advice, choices."""
        rng, noun = self.rng, self.rng.choice(list(MEANING))
        adj, name, animal, thing = rng.choice(ADJECTIVES), rng.choice(NAMES), rng.choice(STORY_ANIMALS), rng.choice(HOLDABLE)
        a, b = rng.sample(["cats", "dogs", "summer", "winter", "tea", "milk", "apples", "pears", "books", "songs", "the sea", "the forest", "birds", "fish"], 2)
        place, scene = rng.choice(list(SCENES.items()))
        word = rng.choice(list(RHYMING))
        fast = ["snail", "turtle", "mouse", "cat", "dog", "horse"]
        i, j = sorted(rng.sample(range(len(fast)), 2))
        one, two = [article(x) for x in rng.sample([fast[i], fast[j]], 2)]
        self.say(*rng.choice([
            (f"[Make a sentence with the word {thing}.|Write a sentence with the word {thing}.|Use the word {thing} in a sentence.]", f"[The {adj} {animal} has {article(thing)}.|{name} found {article(thing)} {rng.choice(list(PLACES.values()))}.|{name} gave the {thing} to the {adj} {animal}.|Look, there is {article(thing)} {rng.choice(list(PLACES.values()))}!]"),
            (f"[Make a sentence about {article(animal)}.|Write a sentence about {article(animal)}.|Say something about {article(animal)}.]", f"[The {adj} {animal} sits {rng.choice(list(PLACES.values()))}.|The {animal} plays with {article(thing)}.|{upper(article(adj + ' ' + animal))} {ANIMALS[animal][0].replace('in', 'lives in', 1) if ANIMALS[animal][0].startswith('in') else 'lives ' + ANIMALS[animal][0]}.]"),
            (f"[Write a letter to my friend {name}.|Can you write a short letter to {name}?|Help me to write a letter to {name}.]", f"Dear {name}, [how are you?|I hope that you are well.|I think of you often.] [I am fine.|Here the sun is shining.|Yesterday I saw {article(animal)}.|I have a new {thing}.] [Please visit me soon.|When will you come to see me?|I would like to play with you again.] Your friend{', ' + self.name if self.name else ''}."),
            (f"[Describe {place}.|Tell me about {place}.|What is it like {scene[0]}?|Write about {place}.]", " ".join(rng.sample(scene[1], rng.choice([3, 3, 4])))),
            (f"[Which do you like better, {a} or {b}?|What is better, {a} or {b}?|Do you like {a} or {b} more?]", f"[I like {a} better.|I like {b} better.|I like both, but I like {a} a little more.|Both are good.] [What do you like?|And you?|]"),
            (f"[What rhymes with {word}?|Tell me a word that rhymes with {word}.|Which word rhymes with {word}?]", f"{upper(rng.choice(RHYMING[word]))} rhymes with {word}."),
            (f"[Who|Which] is faster, {one} or {two}?", f"{upper(article(fast[j]))} is faster than {article(fast[i])}."),
            (f"[Give me a name for my {animal}.|What is a good name for {article(animal)}?|How should I call my {animal}?]", f"[What about {name}?|{name} is a good name for {article(animal)}.|I would call the {animal} {name}.]"),
            ("[What should I do today?|What can I do now?|Give me an idea.|What shall I play?]", f"[You could read a book.|You could draw {article(animal)}.|You could go for a walk and look at the birds.|You could bake a cake with a friend.|You could build a house for your {thing}.|You could write a letter to a friend.] [It is fun!|I am sure that you will like it.|]"),
            ("[What should I eat?|I want to eat something. What can I eat?|What can I have for lunch?]", "[How about some soup and bread?|You could eat an apple and some cheese.|Maybe a sandwich and a glass of milk.|A pear or some carrots would be good.]"),
            ("[Tell me something interesting.|Tell me a fact.|Do you know something interesting?|Teach me something.|Tell me something new.]", rng.choice(INTERESTING)),
            ("[What is love?|What is friendship?|What is happiness?|What makes a good friend?]", "[It is when you care for somebody.|It is a warm feeling for somebody that you like.|It is to share good days and bad days.|It is when somebody helps you and laughs with you.]"),
            ("[Say something nice.|Tell me something nice.|Say something kind.]", "[I am glad that you are here.|You are a good friend.|The world is nicer with you in it.|Today is a good day, because we talk.]"),
            (f"[What do you say when somebody gives you {article(thing)}?|What do we say when we get something?]", "We say thank you."),
            (f"[I am going to the {noun2(rng)}.|We will go to the {noun2(rng)} tomorrow.]", "[That sounds nice. Have fun!|How nice! What will you do there?|Have a good time there!]"),
        ]))

    def repeat(self):
        name, words = self.pick(*NAMES), self.pick("hello", "good night", "thank you", "good morning", "goodbye", "happy birthday", "welcome")
        sentence = f"the {self.pick(*HOLDABLE)} is {self.pick(*COLOURS)}"
        self.say(*self.pick((f"[Say {words} to {name}.|Please say {words} to {name}.|Can you say {words} to my friend {name}?]", f"{upper(words)}, {name}!"),
                            (f"[Say \"{sentence}\".|Repeat after me: {sentence}.|Please repeat: {sentence}.]", upper(sentence) + ".")))

    def copy(self):
        """Word for word: what a small model needs most practice in, if it is to keep names apart."""
        words = self.rng.sample(COPY_WORDS, self.rng.randint(3, 9))
        said = self.pick(" ".join(words), ", ".join(words))
        self.say(f"[Repeat|Say|Please repeat|Repeat after me|Say after me|Read]: {said}", upper(said) + ".")

    def remember(self):
        r = self.rng.random()
        keys = [k for k in PERSONAL if k not in self.known]
        if self.known and r < 0.5:
            key = self.pick(*self.known)
            value = self.known[key]
            question, answer = ((PERSONAL[key][1], PERSONAL[key][2]) if key in PERSONAL else (key, "{v}"))
            self.say(question, answer.replace("{v}", value))
        elif r < 0.62 and keys:  # asked, but never told
            self.say(PERSONAL[self.pick(*keys)][1], "[You have not told me that yet.|I do not know that yet. You can tell me.|I do not know. You did not tell me.]")
        elif r < 0.8:
            kind, name, whose = self.pick("dog", "cat", "sister", "brother", "friend", "rabbit", "horse", "doll"), self.pick(*NAMES), "my"
            self.known[f"[What is the name of my {kind}?|What is my {kind} called?]"] = f"Your {kind} is called {name}."
            self.say(f"[I have a {kind} named {name}.|My {kind} is called {name}.|The name of my {kind} is {name}.]", f"[{name} is a nice name for a {kind}.|What a nice name! I like the name {name}.|I would like to meet {name}.]" if kind not in ("sister", "brother", "friend") else f"[{name} is a nice name.|I would like to meet {name}.|Is {name} nice to you?]")
        elif keys:
            key = self.pick(*keys)
            said, _, _, values = PERSONAL[key]
            value = self.pick(*values)
            self.known[key] = value
            reply = {"colour": f"[{upper(value)} is a beautiful colour.|I like {value}, too.]", "food": f"[{upper(value)}! That sounds good.|I hope that you get some {value} today.]", "age": "[That is a good age.|Then you can do a lot already.]",
                     "home": "[That sounds like a nice place.|It must be nice to live there.]", "animal": f"[I like the {value}, too.|The {value} is a nice animal.]", "game": "[That sounds like fun.|That is a nice thing to do.]"}[key]
            self.say(said.replace("{v}", value), reply)

    def unknown(self):
        if self.rng.random() < 0.3:
            noun = self.rng.choice(HARD)
            self.say(f"[What is {article(noun)}?|Do you know what {article(noun)} is?|Tell me about the {noun}.|What do you know about the {noun}?|Explain the {noun}.]", f"[I do not know what {article(noun)} is.|I am sorry, I do not know what {article(noun)} is.|I do not know anything about the {noun}.]")
            return
        q = self.rng.choice(UNKNOWN).replace("{land}", self.pick(*LANDS))
        while "{n}" in q:
            q = q.replace("{n}", str(self.rng.randint(13, 2030)), 1)
        self.say(q, DONT_KNOW)

    def tell_story(self):
        rng, ask = self.rng, "[Tell me a story|Please tell me a story|Can you tell me a story|Write a story|Write a short story|I want to hear a story|Tell me a short story|Write me a story|Do you know a story|Could you tell me a little story]"
        r = rng.random()
        hero = rng.choice(STORY_ANIMALS) if rng.random() < 0.6 else self.pick("girl", "boy", rng.choice(HEROES), rng.choice(HEROES))
        adj = rng.choice(ADJECTIVES)
        one = article(hero if rng.random() < 0.6 else f"{adj} {hero}")
        wanted = {"hero": hero, "adjective": adj} if adj in one.split() else {"hero": hero}
        text, plot = f"{ask} about {one}", None
        if r < 0.12:
            text, wanted = ask, {}
        elif r < 0.2:  # only a thing or a place
            text, wanted = self.pick(*[(f"{ask} about [{article(t)}|the {t}]", {"thing": t}) for t in rng.sample(HOLDABLE, 2)],
                                     *[(f"{ask} about [the {p}|{article(p)}]", {"place": p}) for p in rng.sample(list(PLACES), 2)])
        elif r < 0.33:
            wanted["thing"] = rng.choice(HOLDABLE)
            text += f" and {article(wanted['thing'])}"
        elif r < 0.45:
            wanted["place"] = rng.choice(list(PLACES))
            text += f" and {article(wanted['place'])}" if rng.random() < 0.6 else f" {PLACES[wanted['place']]}"
        elif r < 0.58:
            wanted["friend"] = rng.choice([a for a in STORY_ANIMALS if a != hero])
            text += f" and {article(wanted['friend'])}"
        elif r < 0.75:
            plot = rng.choice(list(PLOTS))
        elif r < 0.88:
            name = self.name if self.name and rng.random() < 0.5 else rng.choice(NAMES)
            if hero in WOMEN + MEN:
                hero = "girl" if name in GIRLS else "boy"
                one = article(hero)
            wanted = {"hero": hero, "name": name}
            text = f"{ask} about {article(hero)} [named|called] {name}"
            if name == self.name and rng.random() < 0.4:
                text, wanted["hero"] = f"{ask} about me", "girl" if name in GIRLS else "boy"
        self.story, self.asked_sequel = Story(rng, plot=plot, **wanted), False
        if plot:
            text += " " + self.story.request
        text = expand(rng, text)
        text += "?" if text.startswith(("Can", "Do", "Could")) else rng.choice([".", ".", ".", ", please."])
        self.say(text, self.story.text)
        while rng.random() < 0.55:
            self.after_story()

    def after_story(self):
        if not self.story:
            return self.tell_story()
        r = self.rng.random()
        if r < 0.3 and not self.asked_sequel:
            self.asked_sequel = True
            self.say("[What happened next?|What happened then?|And then?|How does it go on?|Go on, please.|Tell me more.|What happened after that?|Please go on.]", self.story.sequel)
        elif r < 0.85:
            self.say(*self.rng.choice(self.story.questions))
        else:
            self.say(*self.pick(("[I like this story.|That was a nice story.|What a nice story!|I liked that.|Good story!]", "[Thank you!|I am glad that you liked it.|Thank you, I like it, too.] [Do you want to hear another one?|]"),
                                ("[Is this story true?|Did this really happen?]", "[No, I made it up.|No, it is only a story.]")))

    def offered_story(self):
        self.say("[Can you do something for me?|I want to do something.|What shall we do?|Let us do something nice.]", "[I can tell you a story. Would you like that?|Would you like to hear a story?|Shall I tell you a story?]")
        if self.rng.random() < 0.7:
            self.story, self.asked_sequel = Story(self.rng), False
            self.say("[Yes, please.|Yes!|Yes.|Oh yes, please!|Sure.|Okay.|I would like that.]", self.story.text)
        else:
            self.say("[No, thank you.|No.|Not now.|No, thanks.]", "[All right. What would you like to do?|All right. You can also ask me something.|That is fine. What would you like to talk about?]")

    def thanks(self, chance=1.0):
        if self.rng.random() < chance:
            self.say("[Thank you!|Thanks.|Thank you very much.|Thank you.|Thanks a lot!|Thank you for the story.|That was helpful, thank you.]", f"[You are welcome{self.you()}!|You are welcome.|I am happy to help.|It was a pleasure.|I was glad to help{self.you()}.]")

    def bye(self):
        self.say("[Goodbye!|Bye!|Good night!|See you later.|Bye bye.|I must go now.|I have to go. Goodbye!|See you tomorrow!|Good night.]", f"[Goodbye{self.you()}!|Bye{self.you()}! Come back soon.|See you soon{self.you()}!|Goodbye, and have a nice day!|Good night, sleep well!|It was nice to talk to you. Goodbye!]")

    def chatter(self):
        self.say(*self.pick(("[Yes.|Okay.|All right.|I see.|Good.|Nice.]", "[What would you like to know?|What shall we talk about?|Good. What shall we do now?]"), ("[No.|Not really.]", "[That is all right. What would you like to talk about?|All right. Do you want to hear a story?]"),
                            ("[You are nice.|You are funny.|I like you.|You are great!]", "[Thank you! You are nice, too.|Thank you, that is very kind.|You are very kind.]"), ("[You are stupid.|You are bad.|I do not like you.]", "[I am sorry. I am only a small model, but I do my best.|I am sorry that you are not happy with me.]"),
                            ("[Sorry.|I am sorry.]", "[That is all right.|No problem at all.]"), ("[What?|I do not understand.|What do you mean?]", "[I am sorry. I will try to say it in simple words.|I am sorry. Please ask me again.]"), ("[Help me.|Can you help me?|I need help.]", "[Of course. What can I do for you?|Yes, I will try. What do you need?]"),
                            ("[It is raining.|It rains today.]", "[Then take an umbrella, or stay inside with a good book.|Rain is good for the flowers.]"), ("[It is snowing!|It snows today.]", "[How nice! You can build a snowman.|Put on a warm coat and enjoy the snow.]"), ("[The sun is shining.|It is a sunny day.]", "[That is nice. Go outside and enjoy it.|Then it is a good day to play outside.]"),
                            ("[Let us play a game.|Do you want to play?]", "[Yes! I think of an animal. It has a long trunk. What is it?|Yes! Tell me an animal, and I tell you where it lives.]")))

    def system(self):
        rng = self.rng
        r = rng.random()
        if r < 0.3:
            self.bot = self.pick(*NAMES, "Sunny", "Pip", "Star", "Bello")
            content = f"[Your name is {self.bot}.|You are {self.bot}, a friendly helper.|You are {self.bot}, and you tell stories to children.|You are called {self.bot}.]"
        elif r < 0.5:
            self.name = self.pick(*NAMES)
            content = f"[You talk to {self.name}.|The name of the user is {self.name}.|The user is called {self.name}.|You are a kind helper. The user is called {self.name}.]"
        else:
            content = "[You are a helpful assistant.|You are a kind storyteller.|You tell stories to children.|You are a friendly helper.|Use simple words.|You are a helpful assistant. Use short sentences.|Answer in simple English.|You are a friendly assistant who likes animals.]"
        self.turns.append({"role": "system", "content": expand(rng, content)})


def noun2(rng):
    return rng.choice(["park", "zoo", "market", "lake", "beach", "library", "school", "forest", "farm", "garden"])


def plural(noun):
    special = {"mouse": "mice", "wolf": "wolves", "fish": "fish", "sheep": "sheep", "deer": "deer", "butterfly": "butterflies", "puppy": "puppies", "fox": "foxes"}
    return special.get(noun, noun + "s")


TOPICS = {Talk.how_are_you: 3, Talk.feeling: 4, Talk.about_me: 5, Talk.colour: 5, Talk.animal: 9, Talk.calendar: 4, Talk.sums: 5, Talk.numbers: 2,
          Talk.opposite: 3, Talk.group: 4, Talk.meaning: 9, Talk.facts: 4, Talk.howto: 3, Talk.fun: 3, Talk.likes: 2, Talk.make: 8, Talk.copy: 6, Talk.repeat: 4, Talk.remember: 9,
          Talk.unknown: 5, Talk.tell_story: 13, Talk.offered_story: 2, Talk.chatter: 4, Talk.tell_name: 4, Talk.ask_name: 8, Talk.after_story: 2}


def dialogue(rng, longest=None):
    """One dialogue of one to about eight exchanges."""
    talk = Talk(rng)
    if rng.random() < 0.2:
        talk.system()
        if talk.bot and rng.random() < 0.5:
            talk.about_me()
        if talk.name and rng.random() < 0.5:
            talk.ask_name()
    if rng.random() < 0.3:
        talk.greet()
    turns = longest or rng.choice([1, 1, 1, 2, 2, 3, 3, 4, 5, 6])
    topics, weights = list(TOPICS), list(TOPICS.values())
    for _ in range(turns):
        rng.choices(topics, weights)[0](talk)
    if talk.name and rng.random() < 0.3:
        talk.ask_name()
    if rng.random() < 0.12:
        talk.thanks()
    if rng.random() < 0.15:
        talk.bye()
    return talk.turns


def drill(rng):
    """A dialogue that is nothing but copying: words said back, and names kept."""
    talk = Talk(rng)
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice([talk.copy, talk.copy, talk.repeat, talk.tell_name, talk.ask_name])()
    return talk.turns


if __name__ == "__main__":
    generator = random.Random(5)
    for _ in range(30):
        for turn in dialogue(generator):
            print(f"{turn['role']:>10}: {turn['content']}")
        print()
