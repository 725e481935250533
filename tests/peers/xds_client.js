// Calls a service that is found by xDS, with @grpc/grpc-js-xds. Argument: the target. For each line of input, that many calls;
// answers with one line, a JSON object of how often who answered. Modules are found by NODE_PATH.
'use strict';

const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();
const readline = require('node:readline');

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const raw = (bytes) => bytes;

function call() {
  return new Promise((resolve) => {
    const deadline = Date.now() + 30000;
    const metadata = new grpc.Metadata();
    metadata.setOptions({ waitForReady: true });
    client.makeUnaryRequest('/test.Who/Who', raw, raw, Buffer.alloc(0), metadata, { deadline }, (error, answer) => {
      resolve(error ? `error: ${grpc.status[error.code]} ${error.details}` : answer.toString());
    });
  });
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const seen = {};
    for (let left = Number(line); left > 0; left -= 1) {
      const who = await call();
      seen[who] = (seen[who] || 0) + 1;
    }
    process.stdout.write(`${JSON.stringify(seen)}\n`);
  }
  client.close();
}

main();
