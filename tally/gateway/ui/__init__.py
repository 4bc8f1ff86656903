"""The gateway's own page, `/ui`: what a deployment looks like from here, live, and a walk through what it does.

lookout.py   asks who is there, and what the others know
snapshot.py  what is shown, as one value
feed.py      the snapshots as server-sent events, one a second while somebody looks
actions.py   what a person may do from the page, where the setting `ui` is `full`
page.py      the page's files, and all of its routes
assets/      the page: one HTML, one stylesheet, one script, written by hand
"""
