// Google's client for browsers, with the face of a client of Connect, so that it can go through scenarios.js.
//
// Its generator, which takes a compiler for C++, writes what stands here by hand: a descriptor for each method. The
// client is the same; it leaves it to two functions how a message becomes bytes and back.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { anyUnpack, AnySchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, decodeBinaryHeader } from "@connectrpc/connect";
import { GrpcWebClientBase, MethodDescriptor, MethodType } from "grpc-web";

import { InteropDetailSchema, InteropService } from "./gen/interop/v1/interop_pb.js";

// A client whose unary methods call back.
export function createCallbackClient(task) {
  const base = new GrpcWebClientBase(options(task));
  return createClient(task, base, (url, request, metadata, descriptor, { onHeader, onTrailer, signal }) =>
    new Promise((resolve, reject) => {
      const call = base.rpcCall(url, request, metadata, descriptor, (error, response) =>
        error ? reject(toConnect(error)) : resolve(response),
      );
      // The status comes before the end, and the end calls back.
      call.on("metadata", (metadata) => onHeader?.(new Headers(metadata)));
      call.on("status", ({ metadata }) => onTrailer?.(new Headers(metadata)));
      signal?.addEventListener("abort", () => {
        call.cancel();
        // It does not call back any more.
        reject(new ConnectError("canceled", Code.Canceled));
      });
    }),
  );
}

// A client whose unary methods return promises.
export function createPromiseClient(task) {
  return createClient(task, new GrpcWebClientBase(options(task)), (url, request, metadata, descriptor, observers) => {
    const interceptor = {
      intercept: async (request, invoke) => {
        const response = await invoke(request);
        observers.onHeader?.(new Headers(response.getMetadata()));
        observers.onTrailer?.(new Headers(response.getStatus().metadata));
        return response;
      },
    };
    const base = new GrpcWebClientBase({ ...options(task), unaryInterceptors: [interceptor] });
    const { signal } = observers;
    return base.unaryCall(url, request, metadata, descriptor, { signal }).catch((error) => {
      throw toConnect(error);
    });
  });
}

function options({ protocol, withCredentials }) {
  return { format: protocol === "grpc-web-text" ? "text" : "binary", withCredentials };
}

function createClient({ protocol, service }, base, callUnary) {
  const client = {};
  for (const method of InteropService.methods) {
    const url = `${service}/${InteropService.typeName}/${method.name}`;
    const descriptor = new MethodDescriptor(
      `/${InteropService.typeName}/${method.name}`,
      method.methodKind === "unary" ? MethodType.UNARY : MethodType.SERVER_STREAMING,
      Object,
      Object,
      (message) => toBinary(method.input, message),
      (data) => fromBinary(method.output, data),
    );
    if (method.methodKind === "unary") {
      client[method.localName] = (request, { headers, timeoutMs, ...observers } = {}) =>
        callUnary(url, create(method.input, request), { ...headers, ...deadline(timeoutMs) }, descriptor, observers);
    } else if (method.methodKind === "server_streaming") {
      client[method.localName] = (request, { headers, timeoutMs, ...observers } = {}) => {
        // With a deadline the client sets an alarm of its own, which takes along what it has not handed over. In
        // binary mode that is everything up to the end of the stream.
        const timeout = protocol === "grpc-web-text" ? deadline(timeoutMs) : timeoutHeader(timeoutMs);
        const metadata = { ...headers, ...timeout };
        return iterate(base.serverStreaming(url, create(method.input, request), metadata, descriptor), observers);
      };
    }
  }
  return client;
}

function deadline(timeoutMs) {
  return timeoutMs === undefined ? {} : { deadline: String(Date.now() + timeoutMs) };
}

function timeoutHeader(timeoutMs) {
  return timeoutMs === undefined ? {} : { "grpc-timeout": `${timeoutMs}m` };
}

// Make an iterable of a stream that calls back.
async function* iterate(stream, { onHeader, onTrailer, signal }) {
  const events = [];
  let wake;
  const tell = (event) => {
    events.push(event);
    wake?.();
  };
  stream.on("metadata", (metadata) => onHeader?.(new Headers(metadata)));
  stream.on("status", ({ metadata }) => onTrailer?.(new Headers(metadata)));
  stream.on("data", (value) => tell({ value }));
  stream.on("error", (error) => tell({ error: toConnect(error) }));
  stream.on("end", () => tell({ isEnd: true }));
  signal?.addEventListener("abort", () => stream.cancel());
  for (;;) {
    while (events.length === 0) {
      await new Promise((resolve) => (wake = resolve));
    }
    const { value, error, isEnd } = events.shift();
    if (error) {
      throw error;
    }
    if (isEnd) {
      return;
    }
    yield value;
  }
}

function toConnect({ code, message, metadata = {} }) {
  const error = new ConnectError(message, code in Code ? code : Code.Unknown, metadata);
  const status = metadata["grpc-status-details-bin"];
  error.details = status === undefined ? [] : readDetails(decodeBinaryHeader(status));
  return error;
}

// Read the field `details` of a google.rpc.Status.
function readDetails(status) {
  const details = [];
  const reader = new BinaryReader(status);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 3) {
      const { reason } = anyUnpack(fromBinary(AnySchema, reader.bytes()), InteropDetailSchema);
      details.push({ desc: InteropDetailSchema, value: { reason } });
    } else {
      reader.skip(type);
    }
  }
  return details;
}
