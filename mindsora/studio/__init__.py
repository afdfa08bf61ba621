"""The studio: a page in the browser over the jobs of `mindsora.serving`.

requests   what the controls ask for, and what a manifest asks for again
views      pieces of HTML: queue, gallery, timeline
page       the controls, in Gradio
app        the page, the files of its gallery and its login, as one application
"""
