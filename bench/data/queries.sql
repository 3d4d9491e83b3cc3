SELECT c.id, c.name, COUNT(o.id) AS orders, SUM(o.cents) / 100.0 AS total
FROM customers AS c LEFT JOIN orders AS o ON o.customer_id = c.id AND o.state <> 'cancelled'
WHERE c.region IN ('north', 'south', 'east') AND c.since >= '2020-01-01'
GROUP BY c.id, c.name HAVING COUNT(o.id) > 3 ORDER BY total DESC NULLS LAST LIMIT 50;

WITH RECURSIVE parts(part, sub, quantity) AS (
  SELECT part, sub, quantity FROM components WHERE part = 'engine'
  UNION ALL
  SELECT c.part, c.sub, p.quantity * c.quantity FROM components c JOIN parts p ON c.part = p.sub
)
SELECT sub, SUM(quantity) AS needed FROM parts GROUP BY sub ORDER BY sub;

SELECT day, cents, AVG(cents) OVER (PARTITION BY shop ORDER BY day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS week,
  RANK() OVER (PARTITION BY shop ORDER BY cents DESC) AS place,
  CASE WHEN cents > 100000 THEN 'high' WHEN cents > 10000 THEN 'middle' ELSE 'low' END AS band
FROM (SELECT shop, day, SUM(cents) AS cents FROM sales GROUP BY shop, day) AS daily
WHERE day BETWEEN '2024-01-01' AND '2024-12-31';

CREATE TABLE IF NOT EXISTS invoices (
  id BIGINT PRIMARY KEY,
  customer_id BIGINT NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
  number VARCHAR(32) NOT NULL UNIQUE,
  issued TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  cents INTEGER CHECK (cents >= 0),
  note TEXT,
  CONSTRAINT one_a_day UNIQUE (customer_id, issued)
);

UPDATE articles SET stock = stock - l.quantity, changed = CURRENT_TIMESTAMP
FROM order_lines AS l WHERE l.article_id = articles.id AND l.order_id = 4711 AND articles.stock >= l.quantity;

DELETE FROM sessions WHERE last_seen < '2024-06-01' AND NOT EXISTS (
  SELECT 1 FROM carts WHERE carts.session_id = sessions.id AND carts.items > 0);

SELECT a.name, COALESCE(s.stock, 0) AS stock, (SELECT MAX(p.cents) FROM prices p WHERE p.article_id = a.id) AS highest
FROM articles a FULL OUTER JOIN stocks s USING (article_id)
WHERE (a.name LIKE 'bolt%' OR a.name LIKE '%washer%') AND a.weight * 1.2 + 0.5 < 20 AND a.deleted IS NULL
UNION
SELECT name, 0, NULL FROM discontinued WHERE EXTRACT(YEAR FROM ended) = 2023
ORDER BY 1, 2 DESC;

CREATE VIEW busy_hours AS
SELECT shop, EXTRACT(HOUR FROM sold_at) AS hour, COUNT(DISTINCT customer_id) AS customers
FROM sales WHERE CAST(sold_at AS DATE) > '2024-01-01'
GROUP BY shop, EXTRACT(HOUR FROM sold_at) HAVING COUNT(*) >= 10;
