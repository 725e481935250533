"""A gRPC server on the address it is given that answers every call with that address. Prints its port; ends with its standard input."""

import sys
from concurrent import futures

import grpc

address = sys.argv[1]


class Who(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: address.encode())


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Who(),))
port = server.add_insecure_port(address)
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
