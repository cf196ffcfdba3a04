// Clients with an agent that keeps connections: node agents.js URL CLIENTS LONGEST_PAUSE
// Until stdin ends, each sends a request after each pause. Prints what they have sent and lost.
const http = require('http');
const [url, clients, longest] = process.argv.slice(2);
const lost = {};
let sent = 0;
let isStopping = false;
process.stdin.resume().on('end', () => { isStopping = true; });

const sleep = (seconds) => new Promise((wake) => setTimeout(wake, 1000 * seconds));
const pause = () => sleep(Math.random() * longest / (Math.random() < 0.5 ? 9 : 1));

function ask(agent) {
  return new Promise((done, fail) => {
    const request = http.request(url, { agent, method: 'POST' }, (response) => {
      response.resume().on('end', () => (response.statusCode === 200 ? done() : fail(response.statusCode)));
      response.on('error', fail);
    });
    request.on('error', fail).end('hello');
  });
}

async function client() {
  const agent = new http.Agent({ keepAlive: true });
  while (!isStopping) {
    await pause();
    sent += 1;
    await ask(agent).catch((error) => { lost[error] = (lost[error] || 0) + 1; });
  }
  agent.destroy();
}

Promise.all(Array.from({ length: clients }, client)).then(() => console.log(JSON.stringify({ sent, lost })));
