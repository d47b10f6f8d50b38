// The scenarios in a browser: browser.py says which, and hears what came of them.

import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";

import { InteropService } from "./gen/interop/v1/interop_pb.js";
import { createCallbackClient, createPromiseClient } from "./grpc_web_client.js";
import { run } from "./scenarios.js";

// Each takes the task and returns a client.
const CLIENTS = {
  "connect-web": ({ protocol, format, service, withCredentials }) => {
    const options = {
      baseUrl: service,
      useBinaryFormat: format === "proto",
      fetch: (input, init) => fetch(input, { ...init, credentials: withCredentials ? "include" : "same-origin" }),
    };
    const transport =
      protocol === "connect"
        ? createConnectTransport({ ...options, useHttpGet: true })
        : createGrpcWebTransport(options);
    return createClient(InteropService, transport);
  },
  "grpc-web": createCallbackClient,
  "grpc-web-promise": createPromiseClient,
};

function report(outcomes) {
  const lines = outcomes.map((outcome) => JSON.stringify(outcome));
  return fetch("/outcomes", { method: "POST", body: lines.join("\n") });
}

// The page's own site asks the service: the browser has but one connection to that by HTTP/2.
async function started(key) {
  const response = await fetch(`/started?${key}`);
  if (!response.ok) {
    throw new Error(await response.text());
  }
}

try {
  const task = await (await fetch("/task")).json();
  const outcomes = [];
  for await (const outcome of run(CLIENTS[task.client](task), task.leftOut, started)) {
    outcomes.push(outcome);
  }
  await report(outcomes);
} catch (error) {
  await report([{ scenario: "page", crash: error.stack ?? String(error) }]);
}
