"""The words that the page explains: marked where a section uses them first, and listed at its end."""

import re

from markupsafe import Markup, escape

from xaitune.stats.resampling import FEW_MISTAKES

# key -> (the word, where it is found in a text, what it means)
TERMS = {
    "frozen": (
        "Block 1-3 frozen",
        r"Block 1(?:-\d)? frozen|[Ff]reeze Block 1(?:-\d)?|[Ff]reezing points?|[Ff]rozen blocks",
        "VGG16 has five blocks of convolutions. A frozen block keeps the weights that it brought along, and only the blocks "
        "after it are trained on your images. Block 1-3 frozen: Blocks 4 and 5 are trained. Block 1-5 frozen: none is.",
    ),
    "combination": (
        "combination",
        r"\bcombinations?\b",
        "One depth with one optimizer, such as Block 1-3 frozen with nag; in a comparison, one value of each setting. Each is "
        "trained with one or several seeds.",
    ),
    "f1": (
        "F1, macro F1",
        r"macro F1|weighted F1|micro F1|\bF1\b",
        "F1 of a class is 1 where all its images are found and nothing else is taken for it, and 0 where none is found "
        "(the harmonic mean of precision and recall). Macro F1 is the mean over the classes: a rare one counts as much as a "
        "common one. Weighted F1 counts each class by its images. A point is 0.01.",
    ),
    "interval": (
        "interval",
        r"\[?95 % (?:paired )?intervals?|\bintervals?\b",
        "Where the figure would lie with other test images of the same kind, 95 times in 100. It is found by drawing groups of "
        "test images again and again. A wide one means: too few images to be sure.",
    ),
    "mistake": (
        "groups with a mistake",
        r"groups? with a mistake",
        "Groups with at least one test image that the model gets wrong; of a difference, that one of the two models gets wrong. "
        f"Each figure has its own number of them. With fewer than {FEW_MISTAKES} its interval is not reliable.",
    ),
    "group": (
        "group",
        r"\bgroups?\b",
        "Images of one thing, such as several photographs of one part. A group is never divided between training and test, "
        "since a model that has seen the part would look better than it is.",
    ),
    "nag": (
        "SGD, momentum, NAG",
        r"(?<![\w-])(?:nag|NAG|sgd)(?![\w-])",
        "Optimizers, ways to change the weights in training: stochastic gradient descent; the same with momentum, which keeps "
        "part of the last step; and Nesterov's accelerated gradient, which also looks ahead.",
    ),
    "gradcam": (
        "Grad-CAM, CAM",
        r"Grad-CAM|\bCAM\b",
        "Heatmaps of where a network finds evidence for a class. CAM (class activation map) takes the last layer and the "
        "weights of the class. Grad-CAM does it at any block, with gradients in place of these weights.",
    ),
    "head": (
        "linear head",
        r"linear heads?",
        "One layer of weights on what the frozen blocks give, fitted in seconds by a formula. Where it is as good as training "
        "blocks, no block needs training.",
    ),
    "regret": (
        "regret",
        r"\bregret\b",
        "How many points are expected to be lost if this candidate is taken and another one is the best.",
    ),
    "apart": (
        "not told apart",
        r"not told apart|tell them apart|tell .{1,30} apart|cannot tell",
        "The interval of the difference includes 0: these test images do not show which of the two is better. That is a lack of "
        "evidence, not a proof that they are equal.",
    ),
    "margin": (
        "margin",
        r"\bmargin\b|within 1 point|more than 1 point",
        "A difference of 1 point (0.01 of the score), up to which two depths count as equally good.",
    ),
    "validation": (
        "validation, test",
        r"on validation|validation images|test images?",
        "Training images teach the model, validation images choose between models, and test images, which take no part in any "
        "choice, tell how good the chosen one is.",
    ),
    "confusion": (
        "confusion matrix, recall, precision",
        r"confusion matrix|\bprecision\b|\brecall\b",
        "A row for each true class, a column for each class that was answered. Recall: which share of a class's images is found. "
        "Precision: which share of the images that are taken for the class belong to it.",
    ),
}
LEFT_ALONE = {
    "a",
    "button",
    "code",
    "h1",
    "h2",
    "h3",
    "label",
    "option",
    "output",
    "select",
    "summary",
    "svg",
    "td",
    "th",
}
_PATTERN = re.compile("|".join(f"(?P<{key}>{pattern})" for key, (_, pattern, _) in TERMS.items()))
_PART = re.compile(r"(<[^>]*>)")
_TAG = re.compile(r"<(/?)(\w+)")


def mark_terms(section: Markup) -> Markup:
    """A section of the page with the first use of every term a button that opens what it means.

    Texts in headings, tables, links, commands and controls are left as they are.

    Examples:
        >>> print(mark_terms(Markup("<p>NAG, then NAG</p>")))
        <p><button type="button" class="term" popovertarget="term-nag">NAG</button>, then NAG</p>
    """
    parts, closed, marked = [], 0, set()

    def marker(match: re.Match[str]) -> str:
        key = str(match.lastgroup)
        if key in marked:
            return match[0]
        marked.add(key)
        return f'<button type="button" class="term" popovertarget="term-{key}">{match[0]}</button>'

    for part in _PART.split(section):
        if tag := _TAG.match(part):
            if tag[2] in LEFT_ALONE:
                closed += -1 if tag[1] else 1
            parts.append(part)
        else:
            parts.append(part if closed else _PATTERN.sub(marker, part))
    return Markup("".join(parts))


def explained_terms() -> list[tuple[str, str, Markup]]:
    """(key, word, meaning) of every term, in the order of the alphabet."""
    return sorted(((key, word, escape(text)) for key, (word, _, text) in TERMS.items()), key=lambda t: t[1].lower())
