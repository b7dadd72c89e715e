"""Words from which the simulated tenants, people and accounts are named. All invented."""

from random import Random

PLACES = (
    "Kita", "Minami", "Asahi", "Hinode", "Tokachi", "Sorachi", "Teshio", "Akan", "Shiretoko", "Musashi",
    "Suruga", "Setouchi", "Tsugaru", "Hokuto", "Aoba", "Midori", "Hanwa", "Busan", "Nordhafen", "Clearwater",
    "Westlake", "Larkspur", "Ironwood", "Juniper", "Alder", "Brightwell", "Saffron", "Cobalt", "Kestrel",
)  # fmt: skip
FIELDS = (
    "Genomics", "Robotics", "Weather", "Speech", "Vision", "Materials", "Pharma", "Mobility", "Games",
    "Translation", "Finance", "Imaging", "Seismics", "Logistics", "Education", "Agronomy", "Animation",
)  # fmt: skip
FORMS = {
    "JP": ("KK", "GK", "Laboratory KK"), "US": ("Inc.", "LLC"), "KR": ("Co., Ltd.",), "DE": ("GmbH",),
    "GB": ("Ltd",), "FR": ("SAS",), "NL": ("B.V.",), "CA": ("Corp.",), "AU": ("Pty Ltd",), "SG": ("Pte.",),
}  # fmt: skip
FAMILIES = (
    "sato", "suzuki", "takahashi", "tanaka", "watanabe", "ito", "yamamoto", "nakamura", "kobayashi", "kato",
    "yoshida", "yamada", "sasaki", "matsumoto", "inoue", "kimura", "hayashi", "shimizu", "mori", "abe", "kim",
    "lee", "park", "smith", "jones", "brown", "mueller", "schmidt", "martin", "dubois", "devries", "wilson",
)  # fmt: skip
INITIALS = "abcdefghijkmnorstuwy"
END_USES = (
    "training of speech models", "protein structure prediction", "weather ensembles", "recommendations",
    "video generation", "autonomous driving simulation", "translation services", "fraud detection",
    "molecular dynamics", "language model fine-tuning",
)  # fmt: skip


def company(random: Random, country: str) -> str:
    form = random.choice(FORMS.get(country, ("Ltd",)))
    return f"{random.choice(PLACES)} {random.choice(FIELDS)} {form}"


def account(random: Random, number: int) -> str:
    """A personal account; `number` makes it unique."""
    return f"{random.choice(INITIALS)}{random.choice(FAMILIES)}{number:04d}"
