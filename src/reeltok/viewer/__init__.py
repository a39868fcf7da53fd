"""A page to try tokenizers on: drop a video, see its tokens, what they give back, and numbers.

`work` does it without a web framework, `pictures` draws, `app` is the page (gradio, extra `ui`).
"""
