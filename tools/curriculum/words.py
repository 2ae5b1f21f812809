"""Vocabulary that several families draw from."""
NAMES = {
    "en": ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack", "Kate", "Leo", "Mia", "Noah",
           "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor"],
    "zh": ["小明", "小红", "小刚", "小丽", "小华", "小芳", "王强", "李娜", "张伟", "刘洋", "陈静", "赵雷", "孙悦", "周杰", "吴敏",
           "郑浩"],
}
THINGS = {
    "en": ["apples", "pencils", "books", "cups", "stamps", "coins", "eggs", "bottles", "chairs", "tickets", "stickers",
           "marbles", "cards", "boxes", "shirts", "plants"],
    "zh": ["苹果", "铅笔", "书", "杯子", "邮票", "硬币", "鸡蛋", "瓶子", "椅子", "票", "贴纸", "弹珠", "卡片", "盒子", "衬衫",
           "花盆"],
}
GOODS = {
    "en": ["bread", "milk", "rice", "tea", "coffee", "cheese", "butter", "juice", "soap", "pasta", "honey", "flour",
           "sugar", "salt", "oil", "jam"],
    "zh": ["面包", "牛奶", "大米", "茶叶", "咖啡", "奶酪", "黄油", "果汁", "肥皂", "面条", "蜂蜜", "面粉", "白糖", "食盐", "食用油",
           "果酱"],
}
WORDS = ["apple", "river", "stone", "cloud", "green", "light", "table", "house", "bread", "train", "plant", "smile",
         "ocean", "night", "music", "paper", "tiger", "eagle", "horse", "silver", "garden", "winter", "summer", "orange",
         "purple", "yellow", "window", "bridge", "forest", "island", "castle", "market", "pencil", "basket", "candle",
         "rocket", "planet", "desert", "valley", "copper", "marble", "cotton", "butter", "ginger", "pepper", "carpet",
         "mirror", "guitar", "violin", "camera", "laptop", "engine", "signal", "sensor", "battery", "network", "kitchen",
         "library", "station", "morning", "evening", "rainbow", "thunder", "blanket", "diamond", "emerald", "falcon",
         "dolphin", "penguin", "spider", "monkey", "rabbit", "turtle", "lion", "bear", "wolf", "frog", "duck", "moon",
         "star", "fire", "snow", "wind", "rain", "tree", "leaf", "rose", "lamp", "door", "desk", "boat", "road", "hill",
         "lake", "bird", "fish", "milk", "salt", "gold", "iron"]
DEVICES = ["pump", "fan", "valve", "motor", "boiler", "heater", "chiller", "mixer", "press", "drill", "belt", "crane",
           "meter", "gate", "tank", "filter"]
WEEKDAYS = {
    "en": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "zh": ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"],
}
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def device(rng):
    return f"{rng.choice(DEVICES)}-{rng.randint(1, 9)}"


def devices(rng, n):
    """n different device names."""
    return [f"{kind}-{rng.randint(1, 9)}" for kind in rng.sample(DEVICES, n)]


def joined(values, lang="en"):
    return ", ".join(str(v) for v in values) if lang == "en" else "、".join(str(v) for v in values)
