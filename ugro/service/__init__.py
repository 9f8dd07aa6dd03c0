"""The one door: everything that users and programs can ask for.

A request (`schemas`) names the function that answers it: `Hold(job="job-001")` is answered by `queue.hold`. Functions
take a `Context` and a request, and return a document, or yield updates. They know neither a terminal nor HTTP. A
`Backend` carries requests to the functions: in this process, or in the resident controller.
"""
