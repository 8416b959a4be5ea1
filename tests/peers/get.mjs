// Fetches a page with Node's own client: node get.mjs URL
const response = await fetch(process.argv[2], { signal: AbortSignal.timeout(20_000) });
console.log("node", response.status, (await response.text()).trim());
