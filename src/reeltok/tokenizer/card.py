"""The model card of a folder: README.md, with what hubs of models look for at its head."""

from reeltok.files.text import printable
from reeltok.tokenizer.spec import Spec
from reeltok.wording import count

CARD = "README.md"
HEAD = """---
library_name: reeltok
tags:
- video
- video-tokenizer
- {family}
---
"""
TEXT = """
# {name}

A {kind} video tokenizer of {family}: {tokens} for every {time} of {height}x{width} pixels.

| | |
|---|---|
{facts}

```python
import reeltok

tok = reeltok.load("OWNER/NAME")  # this repository, or the folder
tokens = tok.encode(reeltok.read("clip.mp4"))
reeltok.write(tok.decode(tokens), "again.mp4")
```
"""


def model_card(spec: Spec) -> str:
    """What a tokenizer is, as Markdown behind the front matter that hubs read.

    It says nothing of licence, data and quality: those who train a model know them.
    """
    discrete = spec.vocabulary is not None
    time, height, width = spec.factors
    facts = {
        "parameters": f"{spec.parameters:,}",
        "vocabulary": f"{spec.vocabulary:,} ids of {spec.bits} bits" if discrete else None,
        "latent channels": f"{spec.channels}",
        "frames": f"{spec.first_frames}, then groups of {spec.frames_per_group}",
        "size": None if spec.size is None else f"{spec.size[0]}x{spec.size[1]} (height x width)",
        "window": None if spec.window is None else count(spec.window, "frame"),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    return HEAD.format(family=spec.family) + TEXT.format(
        name=" ".join(printable(spec.name).split()),
        kind=("causal" if spec.causal else "non-causal") + (", discrete" if discrete else ""),
        family=spec.family,
        tokens="an id" if discrete else f"a latent of {spec.channels} channels",
        time=count(time, "frame"),
        height=height,
        width=width,
        facts="\n".join(rows),
    )
