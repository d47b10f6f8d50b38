// The scenarios by Connect for Node.js: client.js ADDRESS PROTOCOL FORMAT. gRPC goes over HTTP/2, all else over
// HTTP/1.1.

import { createClient } from "@connectrpc/connect";
import {
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";

import { InteropService } from "./gen/interop/v1/interop_pb.js";
import { run } from "./scenarios.js";

const TRANSPORTS = {
  connect: (options) => createConnectTransport({ ...options, httpVersion: "1.1", useHttpGet: true }),
  grpc: createGrpcTransport,
  "grpc-web": (options) => createGrpcWebTransport({ ...options, httpVersion: "1.1" }),
};

const [baseUrl, protocol, format] = process.argv.slice(2);

// Each client has connections of its own.
function connect() {
  const transport = TRANSPORTS[protocol]({
    baseUrl,
    useBinaryFormat: format === "proto",
    acceptCompression: [compressionGzip],
    sendCompression: compressionGzip,
  });
  return createClient(InteropService, transport);
}

const observer = connect();
const leftOut = protocol === "connect" ? [] : ["unary_get"];
for await (const outcome of run(connect(), leftOut, (key) => observer.started({ key }))) {
  console.log(JSON.stringify(outcome));
}
// Connections that are kept open would keep the process.
process.exit();
