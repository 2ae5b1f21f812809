-- The decision log, version 1. docs/log.md says what each column means.
--
-- decisions, labels: one counter numbers the rows of both tables (meta.next_id), so that shipping can name how far it
-- came by one number. A row that came from another node keeps its number there as (origin, origin_row).
-- Tiers are 'edge', 'region', 'core' or 'none'. Flags are 0 or 1. Times are milliseconds: dates since 1970 UTC,
-- lengths as real numbers. A real column is NULL when it was not measured.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    number INTEGER,
    bytes BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE origins (
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    log BLOB NOT NULL,              -- the sender's meta.log_id: a log begun afresh is another one
    last_row INTEGER NOT NULL DEFAULT 0,
    at_ms INTEGER NOT NULL DEFAULT 0,
    UNIQUE (node, log)
) STRICT;

CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    origin INTEGER REFERENCES origins (id),
    origin_row INTEGER,
    request TEXT NOT NULL,
    node TEXT NOT NULL,
    node_tier TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    from_below INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    conversation TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    requested_model TEXT NOT NULL,
    prompt_hash BLOB,
    prompt_chars INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    tier TEXT NOT NULL,
    reason TEXT NOT NULL,
    first_tier TEXT NOT NULL,
    first_reason TEXT NOT NULL,
    why TEXT NOT NULL,
    p_edge REAL,
    p_region REAL,
    p_core REAL,
    ood REAL,
    threshold REAL,
    propensity REAL,
    explored INTEGER NOT NULL,
    allowed_edge INTEGER NOT NULL,
    allowed_region INTEGER NOT NULL,
    allowed_core INTEGER NOT NULL,
    arm TEXT NOT NULL,
    policy INTEGER NOT NULL,
    router TEXT NOT NULL,
    probe_p REAL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL,
    error TEXT NOT NULL,
    finish TEXT NOT NULL,
    http_status INTEGER NOT NULL,
    streamed INTEGER NOT NULL,
    escalated INTEGER NOT NULL,
    failed_over INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    device_private INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    classify_us REAL,
    queue_ms REAL,
    ttft_ms REAL,
    total_ms REAL,
    price_usd REAL,
    price_core_usd REAL
) STRICT;
CREATE INDEX decisions_request ON decisions (request);
CREATE INDEX decisions_at ON decisions (at_ms);
CREATE UNIQUE INDEX decisions_origin ON decisions (origin, origin_row) WHERE origin IS NOT NULL;

CREATE TABLE hops (
    decision INTEGER NOT NULL,      -- decisions.id
    hop INTEGER NOT NULL,           -- 0, 1, … in the order they were tried
    at_ms INTEGER NOT NULL,
    tier TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    outcome TEXT NOT NULL,          -- done, escalated, failed, cancelled
    error TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    ttft_ms REAL,
    total_ms REAL,
    price_usd REAL,
    PRIMARY KEY (decision, hop)
) STRICT, WITHOUT ROWID;

CREATE TABLE labels (
    id INTEGER PRIMARY KEY,
    origin INTEGER REFERENCES origins (id),
    origin_row INTEGER,
    request TEXT NOT NULL,
    node TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,           -- feedback, checker, shadow
    tier TEXT NOT NULL,             -- whose answer is judged; 'none': the one that was given
    value REAL NOT NULL,            -- 1 right … 0 wrong
    note TEXT NOT NULL
) STRICT;
CREATE INDEX labels_request ON labels (request);
CREATE INDEX labels_at ON labels (at_ms);
CREATE UNIQUE INDEX labels_origin ON labels (origin, origin_row) WHERE origin IS NOT NULL;

CREATE TABLE sketches (
    decision INTEGER PRIMARY KEY,
    sketch BLOB NOT NULL
) STRICT;

CREATE TABLE prompts (              -- empty unless the config says that prompts are kept; never shipped
    decision INTEGER PRIMARY KEY,
    prompt TEXT,
    answer TEXT
) STRICT;

CREATE TABLE policies (
    version INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    policy TEXT NOT NULL            -- JSON
) STRICT;

-- Rollups, kept by the writer in the same transaction as the rows they count. They outlive the rows.
CREATE TABLE hourly (
    hour_ms INTEGER NOT NULL,
    node TEXT NOT NULL,
    from_below INTEGER NOT NULL,
    tier TEXT NOT NULL,
    model TEXT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT NOT NULL,
    arm TEXT NOT NULL,
    policy INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    escalated INTEGER NOT NULL,
    failed_over INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    explored INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    price_usd REAL NOT NULL,
    price_core_usd REAL NOT NULL,
    PRIMARY KEY (hour_ms, node, from_below, tier, model, reason, status, arm, policy)
) STRICT, WITHOUT ROWID;

CREATE TABLE hourly_latency (       -- a histogram: eight buckets an octave, so that a percentile is at most 9 % high
    hour_ms INTEGER NOT NULL,
    node TEXT NOT NULL,
    from_below INTEGER NOT NULL,
    tier TEXT NOT NULL,
    at_most_us INTEGER NOT NULL,
    ttft INTEGER NOT NULL,          -- requests whose first token came within this bucket
    total INTEGER NOT NULL,         -- requests that ended within it
    PRIMARY KEY (hour_ms, node, from_below, tier, at_most_us)
) STRICT, WITHOUT ROWID;

-- The common questions. A request that came from a node below is counted there, not here.
CREATE VIEW tier_mix AS
SELECT tier, sum(requests) AS requests, 1.0 * sum(requests) / sum(sum(requests)) OVER () AS share
FROM hourly WHERE from_below = 0 GROUP BY tier;

CREATE VIEW tier_mix_by_hour AS
SELECT hour_ms, datetime(hour_ms / 1000, 'unixepoch') AS hour, tier, sum(requests) AS requests
FROM hourly WHERE from_below = 0 GROUP BY hour_ms, tier;

CREATE VIEW reasons AS
SELECT reason, tier, sum(requests) AS requests
FROM hourly WHERE from_below = 0 GROUP BY reason, tier;

CREATE VIEW price_and_saving AS
SELECT date(hour_ms / 1000, 'unixepoch') AS day, sum(requests) AS requests, sum(price_usd) AS price_usd,
       sum(price_core_usd) AS price_core_usd, sum(price_core_usd) - sum(price_usd) AS saved_usd,
       1 - sum(price_usd) / nullif(sum(price_core_usd), 0) AS saved_share
FROM hourly WHERE from_below = 0 GROUP BY day;

CREATE VIEW failovers_by_hour AS
SELECT hour_ms, datetime(hour_ms / 1000, 'unixepoch') AS hour, sum(requests) AS requests,
       sum(failed_over) AS failed_over, sum(CASE WHEN status = 'ok' THEN failed_over ELSE 0 END) AS recovered,
       sum(degraded) AS degraded, sum(CASE WHEN status <> 'ok' THEN requests ELSE 0 END) AS failed
FROM hourly WHERE from_below = 0 GROUP BY hour_ms;

CREATE VIEW errors_by_hour AS
SELECT hour_ms, datetime(hour_ms / 1000, 'unixepoch') AS hour, status, sum(requests) AS requests
FROM hourly WHERE from_below = 0 AND status <> 'ok' GROUP BY hour_ms, status;

CREATE VIEW latency_percentiles AS
WITH sums AS MATERIALIZED (
    SELECT tier, at_most_us, sum(ttft) AS ttft, sum(total) AS total
    FROM hourly_latency WHERE from_below = 0 GROUP BY tier, at_most_us
), bucket AS (
    SELECT tier, 'ttft' AS measure, at_most_us, ttft AS n FROM sums
    UNION ALL
    SELECT tier, 'total', at_most_us, total FROM sums
), spread AS (
    SELECT tier, measure, at_most_us, sum(n) OVER (PARTITION BY tier, measure) AS requests,
           sum(n) OVER (PARTITION BY tier, measure ORDER BY at_most_us) AS up_to
    FROM bucket WHERE n > 0
)
SELECT tier, measure, max(requests) AS requests,
       min(CASE WHEN up_to >= 0.50 * requests THEN at_most_us END) / 1000.0 AS p50_ms,
       min(CASE WHEN up_to >= 0.90 * requests THEN at_most_us END) / 1000.0 AS p90_ms,
       min(CASE WHEN up_to >= 0.95 * requests THEN at_most_us END) / 1000.0 AS p95_ms,
       min(CASE WHEN up_to >= 0.99 * requests THEN at_most_us END) / 1000.0 AS p99_ms
FROM spread GROUP BY tier, measure;

-- A label without a tier judges the answer that was given: its tier is the one that any decision of the request names.
CREATE VIEW judged AS
SELECT l.id, l.request, l.node, l.at_ms, l.source, l.value,
       CASE WHEN l.tier <> 'none' THEN l.tier
            ELSE coalesce((SELECT d.tier FROM decisions AS d WHERE d.request = l.request ORDER BY d.id LIMIT 1),
                          'none') END AS tier
FROM labels AS l;

CREATE VIEW accuracy_by_tier AS
SELECT tier, source, count(*) AS labels, avg(value) AS accuracy FROM judged GROUP BY tier, source;

CREATE VIEW request_path AS
SELECT d.request, d.node, d.id AS decision, d.from_below, h.hop, h.at_ms, h.tier, h.backend, h.model, h.outcome,
       h.error, h.prompt_tokens, h.completion_tokens, h.ttft_ms, h.total_ms, h.price_usd
FROM decisions AS d JOIN hops AS h ON h.decision = d.id;

CREATE VIEW fleet AS
SELECT node, sum(requests) AS requests, datetime(max(hour_ms) / 1000, 'unixepoch') AS last_hour
FROM hourly GROUP BY node;
