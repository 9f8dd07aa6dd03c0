"""What goes through the door: requests, and the documents that answer them.

`--json`, the bodies of the API and docs/reference are these models; nothing else describes them. They import only
`ugro.common`, so that a client needs nothing of the control plane.
"""
