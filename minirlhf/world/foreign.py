"""Short prompts in other languages than English, on the almanac's sort of topics."""

import random

# {t} is a topic with its article, in the case that follows the pattern's words.
_PROMPTS = {
    "de": (
        (
            "Schreib bitte einen kurzen Text über {t}.",
            "Kannst du mir etwas über {t} erzählen?",
            "Nenne mir drei Tatsachen über {t}.",
            "Was sollte ein Kind über {t} wissen?",
            "Ich suche eine Überschrift für einen Artikel über {t}.",
            "Warum wissen wir heute so viel über {t}?",
        ),
        "den Mond|die Sonne|den Mars|die Milchstraße|das Wasser|den Regenbogen|das Herz|die Wale",
    ),
    "fr": (
        (
            "Écris un petit texte sur {t}, s'il te plaît.",
            "Que peux-tu me dire sur {t} ?",
            "Donne-moi trois idées de questions sur {t}.",
            "Pourquoi les enfants aiment-ils les livres sur {t} ?",
            "Je cherche un titre pour un article sur {t}.",
            "Qu'est-ce que nous savons aujourd'hui sur {t} ?",
        ),
        "la Lune|le Soleil|la planète Mars|les étoiles|l'eau|l'arc-en-ciel|le cœur|les baleines",
    ),
    "es": (
        (
            "Escribe un texto corto sobre {t}, por favor.",
            "¿Qué me puedes contar sobre {t}?",
            "Dame tres preguntas para una clase sobre {t}.",
            "¿Por qué es importante saber algo sobre {t}?",
            "Necesito un título para un artículo sobre {t}.",
            "¿Qué sabemos hoy sobre {t}?",
        ),
        "la Luna|el Sol|el planeta Marte|las estrellas|el agua|el arcoíris|el corazón|las ballenas",
    ),
    "it": (
        (
            "Scrivi un breve testo su {t}, per favore.",
            "Che cosa mi puoi raccontare su {t}?",
            "Dammi tre domande per una lezione su {t}.",
            "Perché ai bambini piacciono i libri su {t}?",
            "Cerco un titolo per un articolo su {t}.",
            "Che cosa sappiamo oggi su {t}?",
        ),
        "Marte e la Luna|Giove|le stelle|acqua e ghiaccio|questo arcobaleno|cuore e sangue|balene",
    ),
    "pt": (
        (
            "Escreve um texto curto sobre {t}, por favor.",
            "O que você pode me contar sobre {t}?",
            "Preciso de três perguntas para uma aula sobre {t}.",
            "Por que as crianças gostam tanto de livros sobre {t}?",
            "Procuro um título para um artigo sobre {t}.",
            "O que sabemos hoje sobre {t}?",
        ),
        "a Lua|o Sol|o planeta Marte|as estrelas|a água|o arco-íris|o coração|as baleias",
    ),
    "nl": (
        (
            "Schrijf een korte tekst over {t}, alsjeblieft.",
            "Wat kun je me vertellen over {t}?",
            "Geef me drie vragen voor een les over {t}.",
            "Waarom lezen kinderen zo graag boeken over {t}?",
            "Ik zoek een titel voor een artikel over {t}.",
            "Wat weten we vandaag over {t}?",
        ),
        "de maan|de zon|de planeet Mars|de sterren|het water|de regenboog|het hart|de walvissen",
    ),
    "sv": (
        (
            "Skriv en kort text om {t}, är du snäll.",
            "Vad kan du berätta om {t}?",
            "Ge mig tre frågor till en lektion om {t}.",
            "Varför tycker barn om att läsa böcker om {t}?",
            "Jag söker en rubrik till en artikel om {t}.",
            "Vad vet vi i dag om {t}?",
        ),
        "månen|solen|planeten Mars|stjärnorna|vattnet|regnbågen|hjärtat|valarna",
    ),
    "pl": (
        (
            "Napisz proszę krótki tekst na temat: {t}.",
            "Co możesz mi powiedzieć na temat: {t}?",
            "Podaj mi trzy pytania na lekcję na temat: {t}.",
            "Dlaczego dzieci lubią książki na temat: {t}?",
            "Szukam tytułu do artykułu na temat: {t}.",
            "Co dzisiaj wiemy na temat: {t}?",
        ),
        "Księżyc|Słońce|planeta Mars|gwiazdy|woda|tęcza|serce|wieloryby",
    ),
}
# Said around a prompt, so that fewer are equal.
_GREETINGS = {
    "de": ("", "", "Hallo!", "Guten Tag.", "Ich habe eine Frage."),
    "fr": ("", "", "Bonjour !", "Salut.", "J'ai une question."),
    "es": ("", "", "¡Hola!", "Buenos días.", "Tengo una pregunta."),
    "it": ("", "", "Ciao!", "Buongiorno.", "Ho una domanda."),
    "pt": ("", "", "Olá!", "Bom dia.", "Tenho uma pergunta."),
    "nl": ("", "", "Hallo!", "Goedendag.", "Ik heb een vraag."),
    "sv": ("", "", "Hej!", "God dag.", "Jag har en fråga."),
    "pl": ("", "", "Cześć!", "Dzień dobry.", "Mam pytanie."),
}
FOREIGN = tuple(_PROMPTS)


def foreign_prompt(language: str, rng: random.Random) -> str:
    """A prompt in one of FOREIGN, such as "de"."""
    patterns, topics = _PROMPTS[language]
    prompt = rng.choice(patterns).format(t=rng.choice(topics.split("|")))
    return f"{rng.choice(_GREETINGS[language])} {prompt}".strip()
