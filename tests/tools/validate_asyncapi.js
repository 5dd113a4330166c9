// Whether a document is good AsyncAPI, as its own parser sees it: node validate_asyncapi.js FILE
'use strict';

const { Parser, fromFile } = require('@asyncapi/parser');

const SEVERITIES = ['error', 'warning', 'information', 'hint'];

async function main() {
  const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
  for (const { severity, path, message } of diagnostics) {
    console.log(`${SEVERITIES[severity]}: ${path.join('.')}: ${message}`);
  }
  if (!document) process.exit(1);
  console.log(`${document.allOperations().length} operations, ${document.allMessages().length} messages`);
}

main();
