"""The routes under `/api/v1/`, one module a subject. Thin: parse, call the service, return a document."""
