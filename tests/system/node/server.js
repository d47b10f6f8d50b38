// interop.v1.InteropService by Connect for Node.js over HTTP/1.1: tells its port in a line, and serves until it is
// killed.

import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";

import { Code, ConnectError, decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";
import { codeFromString, codeToString } from "@connectrpc/connect/protocol-connect";
import { compressionGzip, connectNodeAdapter } from "@connectrpc/connect-node";

import { InteropDetailSchema, InteropService } from "./gen/interop/v1/interop_pb.js";

// By key: that a call has started, and how it has ended. Each is a promise, and what resolves it.
const starts = new Map();
const outcomes = new Map();

const service = {
  unary: (request, context) => watch(request.key, () => answer(request, context)),

  unarySafely: (request, context) => {
    if (context.requestMethod !== "GET") {
      throw new ConnectError("it was not called by GET", Code.FailedPrecondition);
    }
    return answer(request, context);
  },

  clientStream: async (requests, context) => {
    echoMetadata(context);
    const texts = [];
    const iterator = requests[Symbol.asyncIterator]();
    let { value: request, done } = await iterator.next();
    return watch(request?.key, async () => {
      while (!done) {
        await waitAsAsked(request, context);
        failAsAsked(request);
        texts.push(request.text);
        ({ value: request, done } = await iterator.next());
      }
      return { text: texts.join(","), number: texts.length, timeoutMs: context.timeoutMs() ?? -1 };
    });
  },

  serverStream: async function* (request, context) {
    echoMetadata(context);
    let outcome = "closed";
    try {
      for (let number = 0; number !== request.count; number++) {
        yield { text: request.text, number, timeoutMs: context.timeoutMs() ?? -1 };
        if (request.count < 0) {
          // Raises an error that is none of Connect's once the client has left.
          await pause(1, undefined, { signal: context.signal });
        }
      }
      await waitAsAsked(request, context);
      failAsAsked(request);
      outcome = "finished";
    } catch (error) {
      if (error instanceof ConnectError) {
        outcome = codeToString(error.code);
      }
      throw error;
    } finally {
      at(outcomes, request.key).resolve(outcome);
    }
  },

  started: async ({ key }) => {
    await at(starts, key).promise;
    return {};
  },

  outcome: async ({ key }) => ({ outcome: await at(outcomes, key).promise }),
};

// Keep when a call has started, and how it ends.
async function watch(key, call) {
  at(starts, key).resolve();
  try {
    const response = await call();
    at(outcomes, key).resolve("finished");
    return response;
  } catch (error) {
    // A request that breaks off raises Node.js's own error.
    const outcome = error.code === "ECONNRESET" ? "canceled" : codeToString(ConnectError.from(error).code);
    at(outcomes, key).resolve(outcome);
    throw error;
  }
}

async function answer(request, context) {
  echoMetadata(context);
  await waitAsAsked(request, context);
  failAsAsked(request);
  const { requestHeader } = context;
  return {
    text: request.text,
    timeoutMs: context.timeoutMs() ?? -1,
    requestEncoding: requestHeader.get("grpc-encoding") ?? requestHeader.get("content-encoding") ?? "",
  };
}

function echoMetadata({ requestHeader, responseHeader, responseTrailer }) {
  const text = requestHeader.get("echo-ascii");
  if (text !== null) {
    responseHeader.set("echo-ascii", text);
    responseTrailer.set("echo-trailer", text);
  }
  const encoded = requestHeader.get("echo-bin");
  if (encoded !== null) {
    const data = decodeBinaryHeader(encoded);
    responseHeader.set("echo-bin", encodeBinaryHeader(data));
    responseTrailer.set("echo-trailer-bin", encodeBinaryHeader(data));
  }
}

// The signal is aborted when the deadline has passed, or the client has left.
async function waitAsAsked(request, { signal }) {
  if (request.wait) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    signal.throwIfAborted();
  }
}

function failAsAsked({ failure }) {
  if (failure) {
    const details = failure.detail ? [{ desc: InteropDetailSchema, value: { reason: failure.detail } }] : [];
    throw new ConnectError(failure.message, codeFromString(failure.code), undefined, details);
  }
}

function at(promises, key) {
  if (!promises.has(key)) {
    promises.set(key, Promise.withResolvers());
  }
  return promises.get(key);
}

const handler = connectNodeAdapter({
  routes: (router) => router.service(InteropService, service),
  acceptCompression: [compressionGzip],
});
const server = createServer(handler);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
