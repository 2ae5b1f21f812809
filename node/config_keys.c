/* Every key there is: the one place where a key's name, type, range, default and help are declared. The file, the
 * environment, the flags, `rung config`, configs/ and docs/configuration.md all come from these rows. */
#include "node/config_keys.h"

#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct config, field)
#define PRICE(tier, part) offsetof(struct config, policy.price[tier].part)
enum { E = 1 << TIER_EDGE, R = 1 << TIER_REGION, C = 1 << TIER_CORE, ALL = E | R | C };
enum { PATH_LEN = 4095, SOCKET_LEN = 107, WORD_LEN = 63, ADDRESS_LEN = 255 };
#define HOURS_24_MS (24.0 * 3600 * 1000)
#define TIB (1024.0 * 1024 * 1024 * 1024)
#define MTOK "USD per million tokens"

const struct config_section CONFIG_SECTIONS[] = {
    {"node", "The process itself."},
    {"http", "The OpenAI-compatible front: a Unix socket, and a TCP port where one is wanted."},
    {"zmq", "The ZeroMQ front: local clients over ipc, workers and nodes below over tcp or ipc."},
    {"backends", "What can answer, first choice first: the local engine, a peer above, upstream services."},
    {"worker", "For `rung worker`: the broker it serves."},
    {"router", "The classifier that scores prompts."},
    {"arms", "When an experiment (`rung policy try`) ends by itself."},
    {"policy", "What operators tune; seeds the policies table of the log and can be reloaded while running."},
    {"log", "The decision log, an SQLite file."},
    {"health", "When a neighbour counts as gone, and when a failing backend is set aside."},
};
const int CONFIG_SECTIONS_COUNT = (int)(sizeof CONFIG_SECTIONS / sizeof CONFIG_SECTIONS[0]);

const struct config_key CONFIG_KEYS[] = {
    {.name = "node.id", .type = KEY_TEXT, .offset = AT(node), .max = WORD_LEN, .concerns = ALL, .shown = "TIER-HOSTNAME",
     .help = "Name of this node in logs, metrics and towards other nodes; keep it the same across restarts."},
    {.name = "node.state_dir", .type = KEY_TEXT, .offset = AT(state_dir), .max = PATH_LEN, .def = ".", .concerns = ALL,
     .help = "Where relative paths of sockets, the log, the pid and the url file go; made when missing."},
    {.name = "node.pid_file", .type = KEY_TEXT, .state = true, .offset = AT(pid_file), .max = PATH_LEN, .concerns = ALL,
     .help = "The process id is written here while the node runs; none when not set."},
    {.name = "node.log_level", .type = KEY_WORD, .offset = AT(log_level), .choices = "debug|info|warn|error",
     .def = "info", .concerns = ALL, .help = "The least important lines shown on stderr."},
    {.name = "node.drain_ms", .type = KEY_INT, .offset = AT(drain_ms), .unit = "ms", .max = 3600000, .def = "10000",
     .concerns = ALL, .help = "How long a SIGTERM waits for running answers before they are cut."},
    {.name = "node.warm", .type = KEY_BOOL, .offset = AT(warm), .def = "false", .concerns = ALL,
     .help = "Whether each engine generates a little in every batch size it will serve before the node says it is ready."},
    {.name = "node.requests_max", .type = KEY_INT, .offset = AT(requests_max), .min = 1, .max = 1048576, .def = "1024",
     .concerns = ALL, .help = "Requests running and waiting together; one more is answered 429."},
    {.name = "node.request_bytes_max", .type = KEY_INT64, .offset = AT(request_bytes_max), .unit = "bytes",
     .min = 65536, .max = TIB, .def = "8388608", .concerns = ALL, .help = "Memory one request may take."},
    {.name = "node.idempotency_ms", .type = KEY_INT, .offset = AT(idempotency_ms), .unit = "ms", .max = HOURS_24_MS,
     .def = "600000", .concerns = ALL,
     .help = "How long the answer to a request with an idempotency-key is kept for repeats; 0: such keys mean nothing."},
    {.name = "node.idempotency_bytes_max", .type = KEY_INT64, .offset = AT(idempotency_bytes_max), .unit = "bytes",
     .min = 65536, .max = TIB, .def = "16777216", .concerns = ALL,
     .help = "Memory of all answers kept so, oldest forgotten first; one may take a sixteenth."},

    {.name = "http.unix.path", .type = KEY_TEXT, .state = true, .offset = AT(http.unix_path), .max = SOCKET_LEN,
     .def_of = {[TIER_EDGE] = "edge.sock", [TIER_REGION] = "region.sock", [TIER_CORE] = "core.sock"}, .concerns = ALL,
     .help = "The Unix socket; \"\" turns it off."},
    {.name = "http.unix.mode", .type = KEY_OCTAL, .offset = AT(http.unix_mode), .max = 0777, .def = "0660",
     .concerns = ALL, .help = "File mode of the socket: who may connect."},
    {.name = "http.unix.owner", .type = KEY_TEXT, .offset = AT(http.unix_owner), .max = WORD_LEN * 2 + 1, .concerns = ALL,
     .help = "Owner of the socket as USER:GROUP, USER or :GROUP; left as it is when not set."},
    {.name = "http.unix.uids", .type = KEY_LIST, .offset = AT(http.uids), .max = WORD_LEN, .concerns = ALL,
     .help = "Users (names or numbers) that may connect, by peer credentials; empty: whoever the mode lets in."},
    {.name = "http.tcp.listen", .type = KEY_TEXT, .offset = AT(http.tcp_listen), .max = ADDRESS_LEN, .concerns = ALL,
     .help = "HOST:PORT for SDKs that need one, such as 127.0.0.1:8600; port 0 picks a free one. Off when not set."},
    {.name = "http.tcp.url_file", .type = KEY_TEXT, .state = true, .offset = AT(http.tcp_url_file), .max = PATH_LEN, .concerns = ALL,
     .help = "The address in use is written here, http://HOST:PORT (the API is below its /v1)."},
    {.name = "http.tcp.auth", .type = KEY_BOOL, .offset = AT(http.tcp_auth), .choices = "none|bearer", .def = "bearer",
     .concerns = ALL, .help = "Whether the TCP port wants a bearer key from http.tcp.keys_file."},
    {.name = "http.tcp.keys_file", .type = KEY_TEXT, .offset = AT(http.keys_file), .max = PATH_LEN, .concerns = ALL,
     .help = "Keys of the TCP port, one `KEY TENANT` a line; mode 0600."},
    {.name = "http.origins", .type = KEY_LIST, .offset = AT(http.origins), .max = ADDRESS_LEN, .concerns = ALL,
     .help = "Web origins that may call, such as https://chat.example.org; any other Origin header is refused."},
    {.name = "http.body_bytes_max", .type = KEY_INT64, .offset = AT(http.body_bytes_max), .unit = "bytes", .min = 1024,
     .max = 16777216, .def = "4194304", .concerns = ALL, .help = "Largest request body; a larger one is answered 413."},
    {.name = "http.connections_max", .type = KEY_INT, .offset = AT(http.connections_max), .min = 1, .max = 65536,
     .def = "1024", .concerns = ALL, .help = "Connections open at once."},
    {.name = "http.idle_timeout_ms", .type = KEY_INT, .offset = AT(http.idle_timeout_ms), .unit = "ms", .min = 100,
     .max = HOURS_24_MS, .def = "60000", .concerns = ALL, .help = "A connection that asks nothing is closed after this."},

    {.name = "zmq.ipc.path", .type = KEY_TEXT, .state = true, .offset = AT(zmq.ipc_path), .max = SOCKET_LEN, .concerns = ALL,
     .help = "Socket file for local MessagePack clients. Off when not set."},
    {.name = "zmq.ipc.mode", .type = KEY_OCTAL, .offset = AT(zmq.ipc_mode), .max = 0777, .def = "0660", .concerns = ALL,
     .help = "File mode of that socket: who may connect."},
    {.name = "zmq.ipc.uids", .type = KEY_LIST, .offset = AT(zmq.ipc_uids), .max = WORD_LEN, .concerns = ALL,
     .help = "Users (names or numbers) that may connect, by peer credentials; empty: whoever the mode lets in."},
    {.name = "zmq.listen", .type = KEY_TEXT, .offset = AT(zmq.listen), .max = ADDRESS_LEN, .concerns = ALL,
     .help = "tcp://HOST:PORT or ipc://PATH for workers and nodes below. Off when not set."},
    {.name = "zmq.keys_file", .type = KEY_TEXT, .offset = AT(zmq.keys_file), .max = PATH_LEN, .concerns = ALL,
     .help = "This node's CURVE key pair, made by `rung keys`; mode 0600. Needed for tcp beyond loopback."},
    {.name = "zmq.peers_file", .type = KEY_TEXT, .offset = AT(zmq.peers_file), .max = PATH_LEN, .concerns = ALL,
     .help = "Keys that may connect, a line `KEY NODE` each: that key may only be that node. Needed to listen on tcp beyond loopback."},
    {.name = "zmq.plain_loopback", .type = KEY_BOOL, .offset = AT(zmq.plain_loopback), .def = "false", .concerns = ALL,
     .help = "Whether tcp links on 127.0.0.1 may go without CURVE."},

    {.name = "worker.connect", .type = KEY_TEXT, .offset = AT(broker_connect), .max = ADDRESS_LEN, .concerns = R | C,
     .help = "The broker's zmq.listen as seen from here: tcp://HOST:PORT or ipc://PATH."},
    {.name = "worker.server_key", .type = KEY_TEXT, .offset = AT(broker_key), .max = WORD_LEN, .concerns = R | C,
     .help = "The broker's public key, as `rung keys` shows it; needed for tcp beyond loopback."},

    {.name = "router.file", .type = KEY_TEXT, .offset = AT(router_file), .max = PATH_LEN, .concerns = ALL,
     .help = "The fitted router; without one every tier scores 0.5."},
    {.name = "router.stale.calibration", .type = KEY_REAL, .offset = AT(stale_calibration), .min = 0.001, .max = 1, .def = "0.05",
     .concerns = ALL, .help = "The router counts as stale when labels are off its word by more than this (and by three errors)."},
    {.name = "router.stale.unfamiliar", .type = KEY_REAL, .offset = AT(stale_unfamiliar), .min = 0.001, .max = 1, .def = "0.1",
     .concerns = ALL, .help = "Or when more than this share of prompts is unlike what it was fitted on."},
    {.name = "router.watch_ms", .type = KEY_INT, .offset = AT(watch_ms), .unit = "ms", .min = 100, .max = HOURS_24_MS,
     .def = "300000", .concerns = ALL, .help = "How often the log is looked at for that, and for experiments that are decided."},

    {.name = "arms.promote", .type = KEY_BOOL, .offset = AT(arms_promote), .choices = "manual|auto", .def = "manual",
     .concerns = ALL, .help = "auto: an experiment ends by itself, promoted or stopped, once it is decided."},
    {.name = "arms.metric", .type = KEY_CHOICE, .offset = AT(arms_rule.metric), .choices = "quality|price", .def = "quality",
     .concerns = ALL, .help = "Decided by more right answers, or by a lower price."},
    {.name = "arms.confidence", .type = KEY_REAL, .offset = AT(arms_rule.confidence), .min = 0.5, .max = 0.9999, .def = "0.95",
     .concerns = ALL, .help = "Of the interval that must leave zero out; it holds however often it is looked at."},
    {.name = "arms.labels_min", .type = KEY_INT64, .offset = AT(arms_rule.rows_min), .min = 50, .max = 1e9, .def = "200",
     .concerns = ALL, .help = "Labels wanted in each arm before anything is decided."},
    {.name = "arms.loss", .type = KEY_REAL, .offset = AT(arms_rule.loss), .max = 1, .def = "0.02", .concerns = ALL,
     .help = "For the metric price: share of right answers that a cheaper policy may lose, surely."},

    {.name = "policy.threshold.edge", .type = KEY_REAL, .offset = AT(policy.threshold[TIER_EDGE]), .max = 1,
     .concerns = ALL, .help = "The least probability of a right answer at which the edge is chosen."},
    {.name = "policy.threshold.region", .type = KEY_REAL, .offset = AT(policy.threshold[TIER_REGION]), .max = 1,
     .concerns = ALL, .help = "The same for the region; core takes what is left."},
    {.name = "policy.ood_limit", .type = KEY_REAL, .offset = AT(policy.ood_limit), .max = 1, .concerns = ALL,
     .help = "A prompt less familiar than this goes up whatever its score; 1 turns it off."},
    {.name = "policy.explore", .type = KEY_REAL, .offset = AT(policy.explore), .max = 0.2, .concerns = ALL,
     .help = "Share of decisions taken at random among the allowed tiers, to learn from."},
    {.name = "policy.degraded_allowed", .type = KEY_BOOL, .offset = AT(policy.degraded_allowed), .concerns = ALL,
     .help = "Whether a lower tier answers, and says so, when every higher one is gone; else 503."},
    {.name = "policy.private_default", .type = KEY_BOOL, .offset = AT(policy.private_default), .concerns = ALL,
     .help = "Whether every request stays on the device, as with x-rung-privacy: device."},
    {.name = "policy.deadline_default_ms", .type = KEY_REAL, .offset = AT(policy.deadline_default_ms), .unit = "ms",
     .max = HOURS_24_MS, .concerns = ALL, .help = "Deadline of requests that name none; 0: none."},
    {.name = "policy.sticky_margin", .type = KEY_REAL, .offset = AT(policy.sticky_margin), .max = 1, .concerns = ALL,
     .help = "A conversation leaves its tier only when a score passes the threshold by this much."},
    {.name = "policy.probe", .type = KEY_BOOL, .offset = AT(policy.probe), .concerns = E,
     .help = "Whether the edge model's own state and first tokens can still send a request up."},
    {.name = "policy.probe_threshold", .type = KEY_REAL, .offset = AT(policy.probe_threshold), .max = 1, .concerns = E,
     .help = "It goes up when the joined probability falls below this."},
    {.name = "policy.hold_tokens", .type = KEY_INT, .offset = AT(policy.hold_tokens), .max = 256, .concerns = E,
     .help = "Tokens of a stream held back before the first is shown, so that it can still go up; 0: none."},
    {.name = "policy.hold_ms", .type = KEY_INT, .offset = AT(policy.hold_ms), .unit = "ms", .max = 60000, .concerns = E,
     .help = "And held back no longer than this."},
    {.name = "policy.shadow", .type = KEY_REAL, .offset = AT(policy.shadow), .max = 1, .concerns = E,
     .help = "Share of the edge's answers that a higher tier answers too, unseen, so that they are judged by agreement."},
    {.name = "policy.budget_usd_per_day", .type = KEY_REAL, .offset = AT(policy.budget_usd_per_day), .unit = "USD",
     .max = 1e9, .concerns = ALL, .help = "What one tenant may spend a day; 0: no limit."},
    {.name = "policy.send_below", .type = KEY_BOOL, .offset = AT(send_policy), .def = "false", .concerns = R | C,
     .help = "Whether nodes below are told this policy, now and whenever it changes; they take it only if they accept one."},
    {.name = "policy.accept_from_above", .type = KEY_BOOL, .offset = AT(accept_policy), .def = "false", .concerns = E | R,
     .help = "Whether a policy sent down by the node above is taken; privacy rules only ever get tighter by it."},
    {.name = "policy.price.edge.input_usd", .type = KEY_REAL, .offset = PRICE(TIER_EDGE, input_usd), .unit = MTOK,
     .max = 1e6, .concerns = ALL, .help = "Price of prompt tokens at the edge."},
    {.name = "policy.price.edge.output_usd", .type = KEY_REAL, .offset = PRICE(TIER_EDGE, output_usd), .unit = MTOK,
     .max = 1e6, .concerns = ALL, .help = "Price of answer tokens at the edge."},
    {.name = "policy.price.edge.reasoning_usd", .type = KEY_REAL, .offset = PRICE(TIER_EDGE, reasoning_usd),
     .unit = MTOK, .max = 1e6, .concerns = ALL, .help = "Price of reasoning tokens at the edge."},
    {.name = "policy.price.region.input_usd", .type = KEY_REAL, .offset = PRICE(TIER_REGION, input_usd), .unit = MTOK,
     .max = 1e6, .concerns = ALL, .help = "Price of prompt tokens at the region."},
    {.name = "policy.price.region.output_usd", .type = KEY_REAL, .offset = PRICE(TIER_REGION, output_usd), .unit = MTOK,
     .max = 1e6, .concerns = ALL, .help = "Price of answer tokens at the region."},
    {.name = "policy.price.region.reasoning_usd", .type = KEY_REAL, .offset = PRICE(TIER_REGION, reasoning_usd),
     .unit = MTOK, .max = 1e6, .concerns = ALL, .help = "Price of reasoning tokens at the region."},
    {.name = "policy.price.core.input_usd", .type = KEY_REAL, .offset = PRICE(TIER_CORE, input_usd), .unit = MTOK,
     .max = 1e6, .concerns = ALL, .help = "Price of prompt tokens at core; also what savings are counted against."},
    {.name = "policy.price.core.output_usd", .type = KEY_REAL, .offset = PRICE(TIER_CORE, output_usd), .unit = MTOK,
     .max = 1e6, .concerns = ALL, .help = "Price of answer tokens at core."},
    {.name = "policy.price.core.reasoning_usd", .type = KEY_REAL, .offset = PRICE(TIER_CORE, reasoning_usd),
     .unit = MTOK, .max = 1e6, .concerns = ALL, .help = "Price of reasoning tokens at core."},

    {.name = "log.path", .type = KEY_TEXT, .state = true, .offset = AT(log_path), .max = PATH_LEN,
     .def_of = {[TIER_EDGE] = "edge.db", [TIER_REGION] = "region.db", [TIER_CORE] = "core.db"}, .concerns = ALL,
     .help = "The SQLite file; \"\" turns the log off."},
    {.name = "log.keep_days", .type = KEY_INT64, .offset = AT(log_keep_days), .unit = "days", .min = 1, .max = 36500,
     .def = "30", .concerns = ALL, .help = "Rows older than this are deleted; hourly rollups stay."},
    {.name = "log.keep_bytes", .type = KEY_INT64, .offset = AT(log_keep_bytes), .unit = "bytes", .min = 1048576,
     .max = TIB * 16, .def = "1073741824", .concerns = ALL, .help = "The oldest rows are deleted past this size."},
    {.name = "log.store_prompts", .type = KEY_BOOL, .offset = AT(log_prompts), .def = "false", .concerns = ALL,
     .help = "Whether prompts are kept as text; else only a keyed hash and a keyed sketch are."},
    {.name = "log.sketch_key_file", .type = KEY_TEXT, .offset = AT(log_sketch_key_file), .max = PATH_LEN, .concerns = ALL,
     .help = "A key for sketches that several nodes share (64 hex digits, mode 0600), so that their sketches can be pooled."},
    {.name = "log.ship", .type = KEY_BOOL, .offset = AT(log_ship), .def = "true", .def_of = {[TIER_CORE] = "false"},
     .concerns = ALL, .help = "Whether rows are sent to the node above when one is connected."},

    {.name = "health.heartbeat_ms", .type = KEY_INT, .offset = AT(heartbeat_ms), .unit = "ms", .min = 50, .max = 60000,
     .def = "1000", .concerns = ALL, .help = "How often neighbours are asked whether they live."},
    {.name = "health.missed_max", .type = KEY_INT, .offset = AT(heartbeats_missed), .min = 1, .max = 100, .def = "3",
     .concerns = ALL, .help = "Heartbeats missed in a row before a neighbour counts as dead."},
    {.name = "health.breaker_failures", .type = KEY_INT, .offset = AT(breaker_failures), .min = 1, .max = 1000,
     .def = "5", .concerns = ALL, .help = "Failures in a row before a backend is set aside."},
    {.name = "health.breaker_open_ms", .type = KEY_INT, .offset = AT(breaker_open_ms), .unit = "ms", .min = 100,
     .max = 3600000, .def = "5000", .concerns = ALL, .help = "How long it is set aside before one request tries it."},
};
const int CONFIG_KEYS_COUNT = (int)(sizeof CONFIG_KEYS / sizeof CONFIG_KEYS[0]);

#define OF(field) offsetof(struct config_backend, field)
enum { L = 1 << CONFIG_LOCAL, P = 1 << CONFIG_PEER, U = 1 << CONFIG_UPSTREAM, S = 1 << CONFIG_SCRIPTED,
       ANY = L | P | U | S };

const struct config_key CONFIG_BACKEND_KEYS[] = {
    {.name = "name", .type = KEY_TEXT, .offset = OF(name), .max = WORD_LEN, .concerns = ANY,
     .help = "Its name in logs, metrics and replies; a-z, A-Z, 0-9, '.', '_' and '-'. Needed, and no two alike."},
    {.name = "type", .type = KEY_CHOICE, .offset = OF(type), .choices = "local|peer|upstream|scripted", .concerns = ANY,
     .help = "local: the engine here; peer: a node above; upstream: an OpenAI-compatible service; scripted: for tests."},
    {.name = "tier", .type = KEY_CHOICE, .offset = OF(tier), .choices = "edge|region|core", .concerns = ANY,
     .shown = "this node's", .help = "The tier its answers count as; a peer tells its own, and without word the one above."},
    {.name = "weight", .type = KEY_REAL, .offset = OF(weight), .min = 0.001, .max = 1000, .def = "1", .concerns = ANY,
     .help = "Share of the work among backends of one `order`."},
    {.name = "order", .type = KEY_INT, .offset = OF(order), .max = 1000, .shown = "place in the list", .concerns = ANY,
     .help = "Lower is tried first; equal ones share by weight."},
    {.name = "slots", .type = KEY_INT, .offset = OF(slots), .max = 4096,
     .def_of = {[CONFIG_LOCAL] = "0", [CONFIG_PEER] = "0", [CONFIG_UPSTREAM] = "32", [CONFIG_SCRIPTED] = "0"},
     .concerns = ANY, .help = "Requests it runs at once, at most 1024 of local; 0: local 4, on a GPU 64; others no bound of their own."},
    {.name = "model_file", .type = KEY_TEXT, .offset = OF(model_file), .max = PATH_LEN, .concerns = L,
     .help = "The model, a GGUF file. Needed."},
    {.name = "draft_model", .type = KEY_TEXT, .offset = OF(draft_model), .max = PATH_LEN, .concerns = L,
     .help = "A smaller GGUF file with the same tokens, whose guesses the model checks several at a time: quicker where they are often "
             "right, and never another text. None when not set."},
    {.name = "draft_kernels", .type = KEY_TEXT, .offset = OF(draft_kernels), .max = WORD_LEN, .concerns = L, .shown = "as kernels",
     .help = "Where draft_model runs, as kernels says it."},
    {.name = "threads", .type = KEY_INT, .offset = OF(threads), .max = 1024, .def = "0", .concerns = L,
     .help = "Threads of the engine; 0: one a core."},
    {.name = "context_tokens", .type = KEY_INT, .offset = OF(context_tokens), .max = 16777216, .def = "0",
     .concerns = L | U | S, .unit = "tokens",
     .help = "Longest prompt and answer together; 0: what the model says, for an upstream: not known."},
    {.name = "queue_max", .type = KEY_INT, .offset = OF(queue_max), .max = 65536, .def = "64", .concerns = L,
     .help = "Requests waiting for a slot of the engine; one more is answered 429."},
    {.name = "kernels", .type = KEY_TEXT, .offset = OF(kernels), .max = WORD_LEN, .def = "auto", .concerns = L,
     .help = "Where it runs. auto: a GPU where there is one that the model fits, else the CPU; cuda or cuda:N: that GPU; cpu; or a "
             "CPU's kernel set (scalar, avx2, avx512, neon)."},
    {.name = "kv", .type = KEY_CHOICE, .offset = OF(kv), .choices = "f16|q8_0", .def = "f16", .concerns = L,
     .help = "How the engine keeps what it has read (the KV cache); q8_0 takes half the memory, a little less exact (8 bits: E4M3 on a GPU)."},
    {.name = "kv_bytes_max", .type = KEY_INT64, .offset = OF(kv_bytes_max), .unit = "bytes", .max = TIB, .def = "0", .concerns = L,
     .help = "Memory of the KV cache; 0: full sequences in all slots; on a GPU twice that, or what the weights leave."},
    {.name = "prefill_tokens", .type = KEY_INT, .offset = OF(prefill_tokens), .unit = "tokens", .max = 16384, .def = "0", .concerns = L,
     .help = "Prompt tokens read in one step beside what is being answered; 0: 256, on a GPU 2048."},
    {.name = "invariant", .type = KEY_BOOL, .offset = OF(invariant), .def = "false", .concerns = L,
     .help = "On a GPU: an answer never depends on what runs beside it, so that another worker goes on exactly; slower. CPUs always do."},
    {.name = "sparse_pages", .type = KEY_INT, .offset = OF(sparse_pages), .max = 1048576, .def = "0", .concerns = L,
     .help = "On a GPU: each answer token reads at most so many KV pages (of 32 tokens) of the past, the likeliest; 0: all of them."},
    {.name = "connect", .type = KEY_TEXT, .offset = OF(connect), .max = ADDRESS_LEN, .concerns = P,
     .help = "The peer's zmq.listen as seen from here: tcp://HOST:PORT or ipc://PATH. Needed."},
    {.name = "server_key", .type = KEY_TEXT, .offset = OF(server_key), .max = WORD_LEN, .concerns = P,
     .help = "The peer's public key, as `rung keys` shows it; needed for tcp beyond loopback."},
    {.name = "url", .type = KEY_TEXT, .offset = OF(url), .max = PATH_LEN, .concerns = U,
     .help = "The service's address up to its /v1: http://HOST:PORT/v1, https://HOST/v1 or unix:/PATH:/v1. Needed."},
    {.name = "model", .type = KEY_TEXT, .offset = OF(model), .max = 255, .concerns = U | S,
     .help = "The model to ask for, by the service's name for it. Needed for an upstream."},
    {.name = "key_file", .type = KEY_TEXT, .offset = OF(key_file), .max = PATH_LEN, .concerns = U,
     .help = "File that holds the API key, mode 0600. Keys are never written into this file."},
    {.name = "key_env", .type = KEY_TEXT, .offset = OF(key_env), .max = WORD_LEN, .concerns = U,
     .help = "Environment variable that holds the API key, where there is no key_file."},
    {.name = "can_tools", .type = KEY_BOOL, .offset = OF(can_tools), .def_of = {[CONFIG_UPSTREAM] = "true"}, .def = "false",
     .concerns = U | S, .help = "Whether it takes `tools`."},
    {.name = "can_json", .type = KEY_BOOL, .offset = OF(can_json), .def_of = {[CONFIG_UPSTREAM] = "true"}, .def = "false",
     .concerns = U | S, .help = "Whether it takes `response_format`."},
    {.name = "can_parts", .type = KEY_BOOL, .offset = OF(can_parts), .def_of = {[CONFIG_UPSTREAM] = "true"}, .def = "false",
     .concerns = U | S, .help = "Whether it takes content parts such as images."},
    {.name = "can_prefix", .type = KEY_BOOL, .offset = OF(can_prefix), .def = "false", .concerns = U | S,
     .help = "Whether it goes on from an assistant message at the end, so that it can take over a broken stream."},
    {.name = "connect_ms", .type = KEY_INT, .offset = OF(connect_ms), .unit = "ms", .min = 10, .max = 600000,
     .def = "3000", .concerns = U, .help = "Longest wait for a connection."},
    {.name = "first_token_ms", .type = KEY_INT, .offset = OF(first_token_ms), .unit = "ms", .min = 10, .max = 3600000,
     .def = "30000", .concerns = U, .help = "Longest wait for the first token; then another backend is tried."},
    {.name = "stall_ms", .type = KEY_INT, .offset = OF(stall_ms), .unit = "ms", .min = 10, .max = 3600000,
     .def = "20000", .concerns = U, .help = "Longest silence within a stream."},
    {.name = "retries_max", .type = KEY_INT, .offset = OF(retries_max), .max = 5, .def = "1", .concerns = U,
     .help = "Times a request is sent again here, where nothing has been shown and it failed before an answer began."},
    {.name = "ca_file", .type = KEY_TEXT, .offset = OF(ca_file), .max = PATH_LEN, .shown = "the system's", .concerns = U,
     .help = "Certificates to trust for https; checking cannot be turned off."},
    {.name = "script_text", .type = KEY_TEXT, .offset = OF(script_text), .max = 65535, .def = "ok", .concerns = S,
     .help = "What it answers, a word a token."},
    {.name = "script_delay_ms", .type = KEY_INT, .offset = OF(script_delay_ms), .unit = "ms", .max = 600000, .def = "0",
     .concerns = S, .help = "Wait between tokens."},
    {.name = "script_fail_after", .type = KEY_INT, .offset = OF(script_fail_after), .min = -1, .max = 1048576, .def = "-1",
     .concerns = S, .help = "Fail after so many tokens; -1: never."},
    {.name = "price.input_usd", .type = KEY_REAL, .offset = OF(price.input_usd), .unit = MTOK, .max = 1e6,
     .shown = "the policy's for its tier", .concerns = ANY, .help = "Price of prompt tokens."},
    {.name = "price.output_usd", .type = KEY_REAL, .offset = OF(price.output_usd), .unit = MTOK, .max = 1e6,
     .shown = "the policy's for its tier", .concerns = ANY, .help = "Price of answer tokens."},
    {.name = "price.reasoning_usd", .type = KEY_REAL, .offset = OF(price.reasoning_usd), .unit = MTOK, .max = 1e6,
     .shown = "output_usd", .concerns = ANY, .help = "Price of reasoning tokens."},
};
const int CONFIG_BACKEND_KEYS_COUNT = (int)(sizeof CONFIG_BACKEND_KEYS / sizeof CONFIG_BACKEND_KEYS[0]);

const struct config_key *config_key_find(const struct config_key *keys, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(keys[i].name, name) == 0) return &keys[i];
    return NULL;
}

const char *config_key_default(const struct config_key *key, int which)
{
    return key->def_of[which] ? key->def_of[which] : key->def;
}

/* Levenshtein's distance, one row at a time; both are cut at 64 bytes, longer than any key. */
static int distance(const char *a, const char *b)
{
    enum { LEN = 64 };
    int row[LEN + 1];
    int n = (int)strnlen(b, LEN), m = (int)strnlen(a, LEN);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; i <= m; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

static const char *last_word(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

const char *config_key_nearest(const struct config_key *keys, int count, const char *name)
{
    const char *best = NULL;
    int limit = (int)strlen(name) / 3;
    if (limit < 2) limit = 2;
    int best_distance = 2 * limit + 2; /* in halves, so that a slip of letters comes before one of sections */
    for (int i = 0; i < count; i++) {
        int d = 2 * distance(name, keys[i].name);
        /* The right word in the wrong section is a likely slip. */
        if (d > 2 * limit && strcmp(last_word(name), last_word(keys[i].name)) == 0) d = 2 * limit + 1;
        if (d < best_distance) best = keys[i].name, best_distance = d;
    }
    for (int i = 0; i < CONFIG_SECTIONS_COUNT && keys == CONFIG_KEYS; i++) {
        int d = 2 * distance(name, CONFIG_SECTIONS[i].name);
        if (d < best_distance) best = CONFIG_SECTIONS[i].name, best_distance = d;
    }
    return best;
}
