-- The decision log, version 2: the latency histogram by day, so that a dashboard over weeks reads little.

CREATE TABLE daily_latency (
    day_ms INTEGER NOT NULL,
    node TEXT NOT NULL,
    from_below INTEGER NOT NULL,
    tier TEXT NOT NULL,
    at_most_us INTEGER NOT NULL,
    ttft INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (day_ms, node, from_below, tier, at_most_us)
) STRICT, WITHOUT ROWID;

INSERT INTO daily_latency
SELECT hour_ms / 86400000 * 86400000, node, from_below, tier, at_most_us, sum(ttft), sum(total)
FROM hourly_latency GROUP BY 1, 2, 3, 4, 5;

DROP VIEW latency_percentiles;
CREATE VIEW latency_percentiles AS
WITH sums AS MATERIALIZED (
    SELECT tier, at_most_us, sum(ttft) AS ttft, sum(total) AS total
    FROM daily_latency WHERE from_below = 0 GROUP BY tier, at_most_us
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
