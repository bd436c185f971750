"""HTTP and WSGI (PEP 3333) without options: headers, forms, redirects, the environ and the response of a job."""
