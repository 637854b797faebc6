"""How well a classifier tells tor through torknock from a browser's visits of real pages, by the first TLS records."""

from __future__ import annotations

import importlib.util
import os
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from contrib.bench import flows, website
from contrib.bench.browser import CHROMIUM
from contrib.bench.features import FIRST, features, rule
from contrib.bench.flows import Flow
from contrib.bench.records import Record, after_handshake
from contrib.bench.table import Figure

_KINDS = (
    ("web", ("--sni", website.NAME), flows.CLIENTS),
    ("tls with shape=1", ("--channel", "tls", "--shape"), 4),
    ("tls", ("--channel", "tls"), 4),
)
"""What tor is carried in, with the options of its lines, and how many clients there are for each part of the site."""

_INSIDE = 9
"""Records behind the handshake: at most 11 belong to that."""

View = Callable[[Sequence[Record]], Sequence[Record]]


def missing() -> str:
    """What this benchmark lacks on this host, in one line; "" if that is nothing."""
    needs = {
        "Chromium (apt-get install chromium)": os.path.exists(CHROMIUM),
        "nginx (apt-get install nginx-light)": os.path.exists(website.NGINX),
        "pages (apt-get install python3-doc debian-handbook)": all(root.is_dir() for root in website.PAGES.values()),
        "scikit-learn (pip install scikit-learn)": importlib.util.find_spec("sklearn") is not None,
    }
    return ", ".join(what for what, there in needs.items() if not there)


def _models() -> list[Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    return [
        RandomForestClassifier(200, random_state=0, class_weight="balanced", min_samples_leaf=2),
        HistGradientBoostingClassifier(random_state=0, max_iter=80),
    ]


def auc(ours: Sequence[Flow], others: Sequence[Flow], view: View, times: bool) -> tuple[float, list[str]]:
    """The better classifier's area under the ROC curve, over folds that share no part; what it looked at most.

    Each part is classified by what was learned of the other parts.
    """
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    every = [*ours, *others]
    named = [features(view(flow.records), times) for flow in every]
    rows = [list(one.values()) for one in named]
    labels = [1] * len(ours) + [0] * len(others)
    best, looked = 0.0, Counter[str]()
    for model in _models():
        scores = [0.0] * len(every)
        for part in range(flows.PARTS):
            known = [number for number, flow in enumerate(every) if flow.part != part]
            asked = [number for number, flow in enumerate(every) if flow.part == part]
            if not asked or len({labels[number] for number in known}) < 2:
                continue
            with threadpool_limits(1):  # threads that wait for each other on a busy machine are slower than one
                model.fit([rows[number] for number in known], [labels[number] for number in known])
            told = model.predict_proba([rows[number] for number in asked])[:, 1]
            for number, score in zip(asked, told, strict=True):
                scores[number] = float(score)
            if hasattr(model, "feature_importances_"):
                looked.update(dict(zip(named[0], map(float, model.feature_importances_), strict=True)))
        best = max(best, float(roc_auc_score(labels, scores)))
    return best, [name for name, _ in looked.most_common(5)]


def control(same: Sequence[Flow], view: View, times: bool) -> float:
    """The AUC of one half of *same* against the other, drawn by chance within each part: about 0.5; the median of 3."""
    found = []
    for seed in range(3):
        chance = random.Random(seed)  # noqa: S311
        halves: tuple[list[Flow], list[Flow]] = ([], [])
        for part in range(flows.PARTS):
            mixed = [flow for flow in same if flow.part == part]
            chance.shuffle(mixed)
            halves[0].extend(mixed[::2])
            halves[1].extend(mixed[1::2])
        found.append(auc(*halves, view, times)[0])
    return statistics.median(found)


def whole(records: Sequence[Record]) -> Sequence[Record]:
    """The connection from its ClientHello on."""
    return records


def inside(records: Sequence[Record]) -> Sequence[Record]:
    """What follows the client's Finished, as many records as every connection of `FIRST` has there."""
    return after_handshake(list(records))[:_INSIDE]


def figures() -> Iterator[Figure]:
    """Collect connections, and classify them."""
    yield from figures_of(flows.collect(_KINDS))


def figures_of(every: Sequence[Flow]) -> Iterator[Figure]:
    """The figures of flows that were collected. Of pages count those as long as tor's connections are."""
    for kind in dict.fromkeys(flow.kind for flow in every):
        found = [flow for flow in every if flow.kind == kind]
        caught = sum(rule(flow.records) for flow in found)
        bound = None if kind == "tls" else 0
        yield Figure("classify", f"{kind}: rule of 514k + 39 finds, of {len(found)}", caught, "", at_most=bound)
    for what, view in (("from the ClientHello", whole), ("behind the handshake", inside)):
        long = [flow for flow in every if len(flow.records) >= FIRST]
        pages = [flow for flow in long if flow.kind == "page"]
        for kind in dict.fromkeys(flow.kind for flow in long if flow.kind != "page"):
            ours = [flow for flow in long if flow.kind == kind]
            for by, times in (("sizes", False), ("sizes and times", True)):
                value, looked = auc(ours, pages, view, times)
                yield Figure("classify", f"{kind}, {what}, by {by}, {len(ours)} against {len(pages)}", value, "AUC")
                print(f"{kind}, {what}, by {by}: {'; '.join(looked)}", flush=True)
        for by, times in (("sizes", False), ("sizes and times", True)):
            value = control(pages, view, times)
            yield Figure("classify", f"control: page against page, {what}, by {by}", value, "AUC", 0.4, 0.6)
    yield from _costs(every)


def _costs(every: Sequence[Flow]) -> Iterator[Figure]:
    """What a shape costs, against channel `tls` without one; nothing if that was not collected."""
    plain = [flow for flow in every if flow.kind == "tls"]
    for kind in dict.fromkeys(flow.kind for flow in every if flow.kind not in ("page", "tls") and plain):
        ours = [flow for flow in every if flow.kind == kind]
        more = statistics.median(flow.octets for flow in ours) - statistics.median(flow.octets for flow in plain)
        ratio = statistics.median(flow.seconds for flow in ours) / statistics.median(flow.seconds for flow in plain)
        yield Figure("classify", f"{kind}: more than tls until tor has bootstrapped", more / 1000, "KB", at_most=200)
        yield Figure("classify", f"{kind}: time to bootstrap, {kind} / tls", ratio, "ratio", at_most=1.2)
