-- A file of records (peers:///path, provisional.journal) as builds before release 0.1.0 wrote it: no application id, one table.
CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
INSERT INTO records VALUES (1, x'');
INSERT INTO records VALUES (2, x'6f6e65');
INSERT INTO records VALUES (3, x'00ff00ff00ff00ff');
INSERT INTO records VALUES (7, x'666f7572');
