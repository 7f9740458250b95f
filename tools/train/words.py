"""The words that the story prompts and the dialogue grammar draw from.

Plain lists, so that a reader can see at once what the model may talk about.
"""

GIRLS = """Ann Amy Anna Bella Clara Daisy Ella Emma Eva Grace Hanna Ida Jane Julia Kate Lily Lisa Lucy Maria Mia Molly
Nina Nora Olga Paula Rosa Ruby Sara Sofia Sue Tina Vera Zoe Alice Mary Betty Carla Dora Helen Iris Laura Maya""".split()
BOYS = """Tom Tim Ben Bob Dan David Eric Fred Finn George Hugo Ivan Jack James Jim Joe John Karl Leo Luke Mark Max Nick
Noah Oscar Otto Paul Peter Ray Robin Sam Simon Ted Theo Victor Will Adam Alex Carl Oliver Henry Martin""".split()
NAMES = GIRLS + BOYS

# animal: (where it lives, what it eats, what it can do, what it says or None, kind, legs)
ANIMALS = {
    "fox": ("in the forest", "mice and berries", "run fast", None, "wild animal", 4),
    "bear": ("in the forest", "fish, berries and honey", "climb trees", "growls", "wild animal", 4),
    "rabbit": ("in a hole in the ground", "grass and carrots", "hop", None, "small animal", 4),
    "mouse": ("in a small hole", "seeds and cheese", "squeeze through tiny holes", "squeaks", "small animal", 4),
    "dog": ("in a house with people", "meat and dog food", "run and fetch a ball", "barks", "pet", 4),
    "cat": ("in a house with people", "fish and meat", "climb and jump", "meows", "pet", 4),
    "bird": ("in a nest", "seeds and worms", "fly and sing", "sings", "animal with wings", 2),
    "owl": ("in a tree", "mice", "fly at night", "hoots", "bird", 2),
    "duck": ("near a pond", "water plants and bread", "swim and fly", "quacks", "bird", 2),
    "frog": ("in a pond", "flies", "jump far", "croaks", "small animal", 4),
    "fish": ("in the water", "small plants and worms", "swim", None, "animal without legs", 0),
    "horse": ("on a farm", "grass and hay", "run fast", "neighs", "big animal", 4),
    "cow": ("on a farm", "grass", "give milk", "moos", "big animal", 4),
    "pig": ("on a farm", "almost everything", "roll in the mud", "oinks", "farm animal", 4),
    "sheep": ("on a farm", "grass", "give wool", "bleats", "farm animal", 4),
    "goat": ("on a farm", "grass and leaves", "climb rocks", "bleats", "farm animal", 4),
    "hen": ("on a farm", "seeds", "lay eggs", "clucks", "bird", 2),
    "lion": ("on the wide plains", "meat", "run and roar", "roars", "big cat", 4),
    "tiger": ("in the jungle", "meat", "swim and climb", "roars", "big cat", 4),
    "elephant": ("on the wide plains", "grass and leaves", "lift things with its trunk", "trumpets", "very big animal", 4),
    "monkey": ("in the jungle", "fruit and nuts", "climb trees", "chatters", "clever animal", 4),
    "wolf": ("in the forest", "meat", "run for a long time", "howls", "wild animal", 4),
    "squirrel": ("in a tree", "nuts", "jump from tree to tree", None, "small animal", 4),
    "hedgehog": ("in a garden", "worms and snails", "roll into a ball", None, "small animal", 4),
    "turtle": ("near the water", "leaves and small fish", "hide in its shell", None, "slow animal", 4),
    "snail": ("in a garden", "leaves", "hide in its shell", None, "very small animal", 0),
    "bee": ("in a hive", "nectar from flowers", "make honey", "buzzes", "insect", 6),
    "ant": ("in an ant hill", "seeds and crumbs", "carry heavy things", None, "insect", 6),
    "butterfly": ("in a garden", "nectar from flowers", "fly", None, "insect", 6),
    "spider": ("in a web", "flies", "make a web", None, "small animal", 8),
    "whale": ("in the sea", "small fish", "dive very deep", "sings", "very big animal", 0),
    "penguin": ("in the cold south", "fish", "swim", None, "bird", 2),
    "deer": ("in the forest", "grass and leaves", "jump and run", None, "wild animal", 4),
    "kitten": ("in a house with people", "milk and fish", "play", "meows", "young cat", 4),
    "puppy": ("in a house with people", "milk and dog food", "play", "barks", "young dog", 4),
}

STORY_ANIMALS = [a for a in ANIMALS if a not in ("ant", "hen")]

ADJECTIVES = """little brave small kind happy shy clever funny young old tiny lonely lazy hungry curious gentle quiet sleepy
silly friendly sad proud playful""".split()

THINGS = ["ball", "boat", "box", "red balloon", "kite", "golden key", "cake", "apple", "hat", "shoe", "book", "lamp",
          "bell", "drum", "flower", "feather", "shiny stone", "shell", "star", "coin", "map", "letter", "basket",
          "blanket", "doll", "toy car", "bike", "ladder", "mirror", "button", "spoon", "cup", "bottle", "umbrella",
          "ring", "rope", "egg", "nut", "pumpkin", "carrot", "cookie", "sandwich", "pie", "candle", "magic stick",
          "paint brush", "snowman", "robot", "teddy bear", "puzzle", "flute", "big tree", "bridge", "tent", "clock",
          "scarf", "coat", "wagon", "pear", "seed", "nest", "rainbow", "swing", "lantern"]

PLACES = ["in the forest", "in the park", "by the river", "in the garden", "on a hill", "by the sea", "on a farm",
          "in the village", "at school", "at home", "in the snow", "in the rain", "at the market", "under a big tree",
          "on a small island", "in the field", "by the lake", "in the kitchen", "in the attic", "near a cave",
          "on the beach", "in a little house", "at the zoo", "in the big city", "on a mountain", "by the old bridge"]

GOALS = ["makes a new friend", "helps a friend", "gets lost and finds the way home", "learns to share",
         "is afraid of the dark", "loses {thing}", "finds {thing}", "wants to learn to swim", "wants to fly",
         "bakes a cake", "looks for {thing}", "gives {thing} to a friend", "tells a lie and is sorry",
         "plants a seed", "builds a house", "has a birthday", "meets {animal}", "saves {animal}",
         "plays with {animal}", "cannot sleep", "is brave", "makes a big mess", "breaks {thing}",
         "goes on a trip", "waits for the snow", "wants {thing}", "paints a picture", "learns to be patient",
         "says thank you", "helps mother", "helps an old man", "helps {animal}", "hears a strange sound",
         "sees a rainbow", "tries something new", "wins a race", "loses a race", "cleans the room", "misses a friend"]

# What SmolLM2 is asked to explain in a sentence or two.
NOUNS = """tree flower river lake sea mountain hill forest garden farm house school city village road bridge boat ship train
bus car bike plane rain snow wind cloud sun moon star rainbow storm ice fire water stone sand grass leaf apple banana
carrot bread milk cheese egg cake honey soup salt sugar book pen pencil letter song drum bell clock lamp key door window
chair table bed blanket hat coat shoe ball kite doll toy friend family mother father baby teacher doctor farmer baker
king queen king nest egg feather wing tail ear eye nose hand foot heart bone tooth map picture story game party gift
holiday winter summer spring autumn morning night day week year island beach desert cave well mill market shop kitchen""".split()
NOUNS = sorted(set(NOUNS))
