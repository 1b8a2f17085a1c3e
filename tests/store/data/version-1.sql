PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA application_id = 1651797619;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE edge (array INTEGER NOT NULL, needs INTEGER NOT NULL, PRIMARY KEY (array, needs)) WITHOUT ROWID;
CREATE TABLE ending (job INTEGER PRIMARY KEY REFERENCES job (key), ended REAL NOT NULL, uid INTEGER NOT NULL, user TEXT NOT NULL, name TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL, submitted REAL NOT NULL, started REAL, cpus REAL NOT NULL, memory INTEGER, time_limit REAL, result TEXT NOT NULL);
INSERT INTO "ending" VALUES(74448896,4.0,1000,'alice','array','normal','COMPLETED',1.0,3.0,1.0,NULL,NULL,'{"attempts":1,"queued_seconds":0.0,"running_seconds":0.0,"frozen_seconds":0.0,"usage":{"cpu_seconds":1.5,"memory_peak_bytes":4096},"exit_code":0,"limits":{"memory":{"value":4096,"source":"memory.max"},"pids":{"value":null,"why":"no controller"}}}');
CREATE TABLE entry (number INTEGER PRIMARY KEY, at REAL NOT NULL, job INTEGER REFERENCES job (key), kind TEXT NOT NULL, change TEXT, data TEXT);
INSERT INTO "entry" VALUES(4,2.0,74448896,'Launched','{"placement":{"cpus":[0],"mems":[0]}}','{"launch":"71.1"}');
INSERT INTO "entry" VALUES(5,3.0,74448896,'Started',NULL,'{"pid":4711}');
INSERT INTO "entry" VALUES(6,4.0,74448896,'Finished','{"event":"exited with 0","retry":true}',NULL);
CREATE TABLE job (key INTEGER PRIMARY KEY, submission INTEGER NOT NULL REFERENCES submission (number), spec INTEGER NOT NULL, demand INTEGER NOT NULL, bounds INTEGER NOT NULL, rest INTEGER NOT NULL, last INTEGER NOT NULL);
INSERT INTO "job" VALUES(73400320,1,0,2,3,1,0);
INSERT INTO "job" VALUES(74448896,2,0,2,3,1,0);
INSERT INTO "job" VALUES(75497473,3,0,2,3,1,0);
INSERT INTO "job" VALUES(75497474,3,0,2,3,1,1);
INSERT INTO "job" VALUES(75497475,3,0,2,3,1,2);
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "note" VALUES('idle','[1,2.5]');
CREATE TABLE open (job INTEGER PRIMARY KEY REFERENCES job (key));
INSERT INTO "open" VALUES(73400320);
INSERT INTO "open" VALUES(75497473);
INSERT INTO "open" VALUES(75497474);
INSERT INTO "open" VALUES(75497475);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), next_number INTEGER NOT NULL, next_job_id INTEGER NOT NULL, last REAL NOT NULL);
INSERT INTO "state" VALUES(1,7,73,4.0);
CREATE TABLE submission (number INTEGER PRIMARY KEY, at REAL NOT NULL, uid INTEGER NOT NULL, user TEXT NOT NULL, anchors TEXT NOT NULL, parts TEXT NOT NULL);
INSERT INTO "submission" VALUES(1,1.0,1000,'alice','{"/data/alice":"/srv/data/alice"}','{"name":"waits","cwd":"/","queue":"normal","priority":50,"max_retries":0,"retry_delay":0.0,"retry_memory":1.0,"hold":false,"resources":{},"network":{"mode":"private"},"isolation":{"seccomp":"default"},"preempt":{},"command":["true"]}
{"ledger":[1.0,0.0,0.0,0.0],"mode":"suspend","estimate":86400.0,"span":86400.0,"state":"PENDING","attempt":1,"held":false,"warned":false,"requeues":0,"freezes":0,"lent":0.0,"stretch":0.0,"user":"alice","order":[-50,-50,70]}
{"whole":1,"share":0,"memory":2147483648,"egress":0,"ingress":0,"jobs":1}
{"cpu_shares":1024,"memory":2147483648,"pids":4096,"scratch":1073741824,"blkio_weight":null,"egress":null,"ingress":null,"time_limit":null,"grace_time":10.0,"strict":false}');
INSERT INTO "submission" VALUES(2,1.0,1000,'alice','{"/data/alice":"/srv/data/alice"}','{"name":"array","cwd":"/","queue":"normal","priority":50,"max_retries":0,"retry_delay":0.0,"retry_memory":1.0,"hold":false,"resources":{},"network":{"mode":"private"},"isolation":{"seccomp":"default"},"preempt":{},"command":["true"],"time_limit":60.0}
{"ledger":[1.0,0.0,0.0,0.0],"mode":"suspend","estimate":60.0,"span":60.0,"state":"PENDING","attempt":1,"held":false,"warned":false,"requeues":0,"freezes":0,"lent":0.0,"stretch":0.0,"user":"alice","order":[-50,-50,71]}
{"whole":1,"share":0,"memory":2147483648,"egress":0,"ingress":0,"jobs":1}
{"cpu_shares":1024,"memory":2147483648,"pids":4096,"scratch":1073741824,"blkio_weight":null,"egress":null,"ingress":null,"time_limit":60.0,"grace_time":10.0,"strict":false}');
INSERT INTO "submission" VALUES(3,1.0,1000,'alice','{"/data/alice":"/srv/data/alice"}','{"name":"many","cwd":"/","queue":"normal","priority":50,"max_retries":0,"retry_delay":0.0,"retry_memory":1.0,"hold":false,"resources":{},"network":{"mode":"private"},"isolation":{"seccomp":"default"},"preempt":{},"command":["true"],"array":{"indices":[0,1,2]}}
{"ledger":[1.0,0.0,0.0,0.0],"mode":"suspend","estimate":86400.0,"span":86400.0,"state":"PENDING","attempt":1,"held":false,"warned":false,"requeues":0,"freezes":0,"lent":0.0,"stretch":0.0,"user":"alice","order":[-50,-50,72]}
{"whole":1,"share":0,"memory":2147483648,"egress":0,"ingress":0,"jobs":1}
{"cpu_shares":1024,"memory":2147483648,"pids":4096,"scratch":1073741824,"blkio_weight":null,"egress":null,"ingress":null,"time_limit":null,"grace_time":10.0,"strict":false}');
CREATE INDEX job_submission ON job (submission);
CREATE INDEX edge_needs ON edge (needs);
CREATE INDEX entry_job ON entry (job);
CREATE INDEX ending_ended ON ending (ended);
CREATE INDEX ending_uid ON ending (uid, ended);
CREATE INDEX ending_name ON ending (name, ended);
CREATE INDEX ending_state ON ending (state, ended);
CREATE INDEX ending_queue ON ending (queue, ended);
COMMIT;
