"""A small schema registry, as much of one as formats need."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIELDS = [{"name": "user", "type": "string"}, {"name": "amount", "type": "double"}]
FIRST = {"type": "record", "name": "Order", "fields": FIELDS}
NOTE = {"name": "note", "type": "string", "default": "none"}
SECOND = {**FIRST, "fields": [NOTE, *reversed(FIELDS)]}
OTHER = {**FIRST, "fields": [{"name": "user", "type": "long"}]}


class Registry:
    """As much of a registry as formats need; counts what it is asked."""

    def __init__(self):
        self.schemas = []
        self.asked = []
        self.password = None
        self.broken = False
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                registry.asked.append(self.path)
                if registry.broken:
                    return self._answer(503, {"message": "not now"})
                if registry.password not in (None, self.headers["Authorization"]):
                    return self._answer(401, {"message": "who are you?"})
                number = int(self.path.partition("?")[0].rpartition("/")[2])
                if number > len(registry.schemas):
                    return self._answer(404, {"error_code": 40403, "message": "not found"})
                schema, kind = registry.schemas[number - 1]
                named = {} if kind == "AVRO" else {"schemaType": kind}
                return self._answer(200, {"schema": schema, **named})

            def do_POST(self):
                registry.asked.append(self.path)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if body["schemaType"] == "AVRO" and json.loads(body["schema"]) == OTHER:
                    return self._answer(409, {"message": "incompatible with an earlier schema"})
                added = body["schema"], body["schemaType"]
                if added not in registry.schemas:
                    registry.schemas.append(added)
                return self._answer(200, {"id": registry.schemas.index(added) + 1})

            def _answer(self, status, answer):
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
