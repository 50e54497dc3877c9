"""The tables of the history."""

# `span` of a row: the minutes that it stands for, 1 or 60. `at`: its first minute, counted from 1970.
# A minute is kept for a day in rows of 1, and for a month in rows of 60.
TABLES = """
CREATE TABLE IF NOT EXISTS node (key INTEGER PRIMARY KEY, node_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS model (key INTEGER PRIMARY KEY, model_id TEXT NOT NULL UNIQUE);
-- minutes: bit i is set where the node was there in minute i of the hour; node 0 is this coordinator
CREATE TABLE IF NOT EXISTS presence (
    hour INTEGER, node INTEGER, minutes INTEGER NOT NULL, PRIMARY KEY (hour, node)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS served (
    span INTEGER, at INTEGER, node INTEGER, model INTEGER, tokens INTEGER NOT NULL,
    PRIMARY KEY (span, at, node, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coverage (
    span INTEGER, at INTEGER, model INTEGER,
    minutes INTEGER NOT NULL, servable INTEGER NOT NULL, thinnest INTEGER NOT NULL,
    PRIMARY KEY (span, at, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flow (
    span INTEGER, at INTEGER, model INTEGER,
    tokens INTEGER NOT NULL, recoveries INTEGER NOT NULL, ttft TEXT NOT NULL, gaps TEXT NOT NULL,
    PRIMARY KEY (span, at, model)
) WITHOUT ROWID;
"""
VERSION = 1  # PRAGMA user_version of a file with these tables

ADD_NODE = """
INSERT INTO node (node_id, name) VALUES (?, ?) ON CONFLICT (node_id) DO UPDATE SET name = excluded.name
WHERE name <> excluded.name
"""
KNOW_NODE = "INSERT OR IGNORE INTO node (node_id, name) VALUES (?, ?)"
ADD_MODEL = "INSERT OR IGNORE INTO model (model_id) VALUES (?)"
ADD_OWN_PRESENCE = """
INSERT INTO presence VALUES (?, 0, ?) ON CONFLICT (hour, node) DO UPDATE SET minutes = minutes | excluded.minutes
"""
ADD_PRESENCE = """
INSERT INTO presence SELECT ?, key, ? FROM node WHERE node_id = ?
ON CONFLICT (hour, node) DO UPDATE SET minutes = minutes | excluded.minutes
"""
ADD_SERVED = """
INSERT INTO served SELECT ?, ?, node.key, model.key, ? FROM node, model WHERE node_id = ? AND model_id = ?
ON CONFLICT (span, at, node, model) DO UPDATE SET tokens = tokens + excluded.tokens
"""
ADD_COVERAGE = """
INSERT INTO coverage SELECT ?, ?, key, 1, ?, ? FROM model WHERE model_id = ?
ON CONFLICT (span, at, model) DO UPDATE SET minutes = minutes + 1, servable = servable + excluded.servable,
    thinnest = min(thinnest, excluded.thinnest)
"""
FLOW_OF = """
SELECT tokens, recoveries, ttft, gaps FROM flow JOIN model ON model = key WHERE span = ? AND at = ? AND model_id = ?
"""
PUT_FLOW = "INSERT OR REPLACE INTO flow SELECT ?, ?, key, ?, ?, ?, ? FROM model WHERE model_id = ?"

FIRST_HOUR = "SELECT hour, minutes FROM presence WHERE node = 0 ORDER BY hour LIMIT 1"
PRESENT = """
SELECT hour, coalesce(node_id, ''), minutes FROM presence LEFT JOIN node ON node = key WHERE hour >= ?
"""
COVERED = """
SELECT model_id, at / 30, sum(servable) FROM coverage JOIN model ON model = key WHERE span = 1 AND at >= ?
GROUP BY model_id, at / 30
"""
FLOWS = """
SELECT model_id, tokens, recoveries, ttft, gaps FROM flow JOIN model ON model = key WHERE span = ? AND at > ?
"""
CONTRIBUTED = """
SELECT name, count(DISTINCT node), sum(CASE WHEN at > ? THEN tokens ELSE 0 END), sum(tokens)
FROM served JOIN node ON node = key WHERE span = 60 AND at > ? GROUP BY name ORDER BY 4 DESC, name LIMIT ?
"""

FORGET = (
    ("DELETE FROM presence WHERE hour < ?", 60),  # with the minutes of its unit
    ("DELETE FROM served WHERE span = 60 AND at < ?", 1),
    ("DELETE FROM coverage WHERE span = 60 AND at < ?", 1),
    ("DELETE FROM flow WHERE span = 60 AND at < ?", 1),
)
FORGET_MINUTES = (
    "DELETE FROM served WHERE span = 1 AND at < ?",
    "DELETE FROM coverage WHERE span = 1 AND at < ?",
    "DELETE FROM flow WHERE span = 1 AND at < ?",
)
FORGET_NAMES = """
DELETE FROM node WHERE key NOT IN (SELECT node FROM presence UNION SELECT node FROM served)
"""
