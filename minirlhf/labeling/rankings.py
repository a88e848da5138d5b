"""From the forms that labelers fill in to the rankings that a reward model is trained on."""

from collections.abc import Sequence

from minirlhf.engine.records import DataError, Prompt, Ranking
from minirlhf.labeling.forms import Form


def ranking_of(forms: Sequence[Form], prompt: Prompt) -> Ranking | None:
    """One labeler's forms for the responses to one prompt, as a record; None if all are tied.

    Raises:  DataError where a form is of another labeler or for another prompt.
    """
    for form in forms:
        where = f"{form.where}: " if form.where else ""
        for name, value, wanted in (
            ("labeler", form.labeler, forms[0].labeler),
            ("prompt_id", form.prompt_id, prompt.id),
        ):
            if value != wanted:
                raise DataError(f"{where}field '{name}': {value!r} among forms of {wanted!r}")
    ranks = tuple(form.rank for form in forms)
    if len(set(ranks)) < 2:  # a ranking of ties alone holds no pair to learn from
        return None
    return Ranking(
        prompt.prompt,
        tuple(form.response for form in forms),
        ranks,
        forms[0].labeler,
        id=prompt.id,
        use_case=prompt.use_case,
        history=prompt.history,
    )
