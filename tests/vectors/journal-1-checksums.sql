-- A node's file (peers:///path) or its journal of provisional log-outs, as release 0.1.0 writes it since records have checksums. Builds before read and write it, too.
PRAGMA application_id = 1752391475;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE holder (token TEXT NOT NULL);
INSERT INTO "holder" VALUES('a-token');
CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER);
INSERT INTO "records" VALUES(1,X'',0);
INSERT INTO "records" VALUES(2,X'6F6E65',2053932785);
INSERT INTO "records" VALUES(3,X'00FF00FF00FF00FF',2934606261);
INSERT INTO "records" VALUES(4,X'666F7572',2428593789);
COMMIT;
