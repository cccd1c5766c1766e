-- +goose Up

CREATE TABLE machines (
	id TEXT PRIMARY KEY,
	tenant TEXT NOT NULL,
	name TEXT NOT NULL,
	hostname TEXT NOT NULL,
	image TEXT NOT NULL,
	vcpus INTEGER NOT NULL,
	memory_mib INTEGER NOT NULL,
	disk_gib INTEGER NOT NULL,
	firewall TEXT NOT NULL,
	ssh_keys TEXT NOT NULL,
	presence TEXT NOT NULL CONSTRAINT machine_presence CHECK (presence IN ('planned', 'present', 'absent')),
	state TEXT NOT NULL,
	pool_wanted TEXT NOT NULL DEFAULT '',
	-- The placement, as the reservation below promised it; empty when nothing is promised.
	pool TEXT NOT NULL DEFAULT '',
	host TEXT NOT NULL DEFAULT '',
	sr TEXT NOT NULL DEFAULT '',
	private TEXT NOT NULL DEFAULT '',
	public TEXT NOT NULL DEFAULT '',
	mac TEXT NOT NULL DEFAULT '',
	console_port INTEGER NOT NULL DEFAULT 0,
	dhcp_group TEXT NOT NULL DEFAULT '',
	firewall_group TEXT NOT NULL DEFAULT '',
	console_group TEXT NOT NULL DEFAULT '',
	vm TEXT NOT NULL DEFAULT '',
	disks TEXT NOT NULL DEFAULT '[]',
	address TEXT NOT NULL DEFAULT '',
	host_key TEXT NOT NULL DEFAULT '',
	host_key_secret BLOB,
	console_password BLOB,
	identity TEXT NOT NULL DEFAULT '',
	-- The newest event's number.
	seq INTEGER NOT NULL DEFAULT 0,
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX machine_name ON machines (tenant, name) WHERE presence <> 'absent';
CREATE UNIQUE INDEX machine_identity ON machines (identity) WHERE identity <> '' AND presence <> 'absent';
CREATE INDEX machine_by_name ON machines (name);

CREATE TABLE runs (
	id TEXT PRIMARY KEY,
	machine TEXT NOT NULL REFERENCES machines (id),
	process TEXT NOT NULL,
	state TEXT NOT NULL,
	status TEXT NOT NULL CONSTRAINT run_status
		CHECK (status IN ('ready', 'running', 'waiting', 'parked', 'canceling', 'done', 'canceled')),
	step TEXT NOT NULL,
	row_hash TEXT NOT NULL,
	undoing INTEGER NOT NULL DEFAULT 0,
	attempt INTEGER NOT NULL DEFAULT 0,
	failures INTEGER NOT NULL DEFAULT 0,
	conflicts INTEGER NOT NULL DEFAULT 0,
	step_since INTEGER NOT NULL DEFAULT 0,
	handles TEXT NOT NULL DEFAULT '{}',
	reason TEXT NOT NULL DEFAULT '',
	kind TEXT NOT NULL DEFAULT '',
	wake_at INTEGER NOT NULL DEFAULT 0,
	wake_key TEXT NOT NULL DEFAULT '',
	deadline INTEGER NOT NULL DEFAULT 0,
	order_source TEXT NOT NULL DEFAULT '',
	order_id TEXT NOT NULL DEFAULT '',
	cancel TEXT NOT NULL DEFAULT '',
	successor TEXT NOT NULL DEFAULT '',
	successor_id TEXT NOT NULL DEFAULT '',
	-- 1 while the holder has not been told of a cancel that came in after its last commit.
	asked INTEGER NOT NULL DEFAULT 0,
	holder TEXT NOT NULL DEFAULT '',
	fence INTEGER NOT NULL DEFAULT 0,
	lease_until INTEGER NOT NULL DEFAULT 0,
	lease_length INTEGER NOT NULL DEFAULT 0,
	-- Written 1 by the commit of a worker that is not the holder: the commit fails without anybody having read the lease before.
	fenced_out INTEGER NOT NULL DEFAULT 0 CONSTRAINT run_lease CHECK (fenced_out = 0),
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX run_active ON runs (machine) WHERE status NOT IN ('done', 'canceled');
CREATE INDEX run_due ON runs (wake_at, created_at) WHERE status IN ('ready', 'running', 'waiting', 'canceling');
CREATE INDEX run_wake_key ON runs (wake_key) WHERE wake_key <> '';
CREATE INDEX run_by_machine ON runs (machine);

CREATE TABLE attempts (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	run TEXT NOT NULL REFERENCES runs (id),
	machine TEXT NOT NULL REFERENCES machines (id),
	step TEXT NOT NULL,
	from_state TEXT NOT NULL,
	to_state TEXT NOT NULL,
	number INTEGER NOT NULL,
	undo INTEGER NOT NULL,
	started INTEGER NOT NULL,
	ended INTEGER NOT NULL,
	outcome TEXT NOT NULL,
	kind TEXT NOT NULL,
	message TEXT NOT NULL,
	detail TEXT NOT NULL,
	actor TEXT NOT NULL,
	handles TEXT NOT NULL
) STRICT;
CREATE INDEX attempt_by_machine ON attempts (machine, id);
CREATE INDEX attempt_open ON attempts (run) WHERE outcome = 'open';

-- An order, for ever, and how the run begins that it asks for: an uninstall's run may have to wait for another to end.
CREATE TABLE orders (
	source TEXT NOT NULL,
	id TEXT NOT NULL,
	tenant TEXT NOT NULL,
	body TEXT NOT NULL,
	machine TEXT NOT NULL DEFAULT '',
	run TEXT NOT NULL,
	process TEXT NOT NULL,
	state TEXT NOT NULL,
	step TEXT NOT NULL,
	row_hash TEXT NOT NULL,
	deadline INTEGER NOT NULL,
	event INTEGER NOT NULL DEFAULT 0,
	actor TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	CONSTRAINT order_key PRIMARY KEY (source, id)
) STRICT;
CREATE UNIQUE INDEX order_run ON orders (run);

CREATE TABLE outbox (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	type TEXT NOT NULL,
	machine TEXT NOT NULL,
	seq INTEGER NOT NULL,
	time INTEGER NOT NULL,
	order_source TEXT NOT NULL,
	order_id TEXT NOT NULL,
	data TEXT NOT NULL,
	published_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX outbox_seq ON outbox (machine, seq) WHERE machine <> '';
CREATE UNIQUE INDEX outbox_refused ON outbox (order_source, order_id) WHERE type = 'slipway.order.refused' AND order_id <> '';
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at = 0;

CREATE TABLE leases (
	name TEXT PRIMARY KEY,
	holder TEXT NOT NULL,
	fence INTEGER NOT NULL,
	until INTEGER NOT NULL
) STRICT;

CREATE TABLE pools (
	id TEXT PRIMARY KEY,
	templates TEXT NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE hosts (
	pool TEXT NOT NULL REFERENCES pools (id),
	uuid TEXT NOT NULL,
	name TEXT NOT NULL,
	memory_mib INTEGER NOT NULL,
	cpus INTEGER NOT NULL,
	enabled INTEGER NOT NULL,
	gone INTEGER NOT NULL DEFAULT 0,
	reserved_mib INTEGER NOT NULL DEFAULT 0 CONSTRAINT host_reserved CHECK (reserved_mib >= 0),
	PRIMARY KEY (pool, uuid)
) STRICT;

CREATE TABLE srs (
	pool TEXT NOT NULL REFERENCES pools (id),
	uuid TEXT NOT NULL,
	name TEXT NOT NULL,
	bytes INTEGER NOT NULL,
	shared INTEGER NOT NULL,
	hosts TEXT NOT NULL,
	gone INTEGER NOT NULL DEFAULT 0,
	reserved_bytes INTEGER NOT NULL DEFAULT 0 CONSTRAINT sr_reserved CHECK (reserved_bytes >= 0),
	PRIMARY KEY (pool, uuid)
) STRICT;

-- What place promised a machine; its row is the promise, the counters of hosts and srs follow it.
CREATE TABLE reservations (
	machine TEXT NOT NULL CONSTRAINT reservation_machine PRIMARY KEY REFERENCES machines (id),
	pool TEXT NOT NULL,
	host TEXT NOT NULL,
	sr TEXT NOT NULL,
	memory_mib INTEGER NOT NULL,
	bytes INTEGER NOT NULL,
	dhcp_group TEXT NOT NULL,
	firewall_group TEXT NOT NULL,
	console_group TEXT NOT NULL,
	FOREIGN KEY (pool, host) REFERENCES hosts (pool, uuid),
	FOREIGN KEY (pool, sr) REFERENCES srs (pool, uuid)
) STRICT;

CREATE TABLE addresses (
	address TEXT NOT NULL PRIMARY KEY,
	pool TEXT NOT NULL,
	role TEXT NOT NULL CONSTRAINT address_role CHECK (role IN ('private', 'public')),
	owner TEXT NOT NULL CONSTRAINT address_owner CHECK (owner IN ('slipway', 'foreign')),
	machine TEXT REFERENCES machines (id),
	state TEXT NOT NULL CONSTRAINT address_state CHECK (state IN ('reserved', 'bound', 'quarantine', 'foreign')),
	until INTEGER NOT NULL DEFAULT 0,
	note TEXT NOT NULL DEFAULT '',
	CONSTRAINT address_machine CHECK ((owner = 'slipway') = (machine IS NOT NULL) AND (owner = 'foreign') = (state = 'foreign'))
) STRICT;
CREATE UNIQUE INDEX address_of_machine ON addresses (machine, role) WHERE state IN ('reserved', 'bound');

CREATE TABLE macs (
	mac TEXT NOT NULL PRIMARY KEY CONSTRAINT mac_given CHECK (mac <> ''),
	pool TEXT NOT NULL,
	owner TEXT NOT NULL CONSTRAINT mac_owner CHECK (owner IN ('slipway', 'foreign')),
	machine TEXT REFERENCES machines (id),
	state TEXT NOT NULL CONSTRAINT mac_state CHECK (state IN ('bound', 'quarantine', 'foreign')),
	until INTEGER NOT NULL DEFAULT 0,
	CONSTRAINT mac_machine CHECK ((owner = 'slipway') = (machine IS NOT NULL) AND (owner = 'foreign') = (state = 'foreign'))
) STRICT;
CREATE UNIQUE INDEX mac_of_machine ON macs (machine) WHERE state = 'bound';

CREATE TABLE console_ports (
	console_group TEXT NOT NULL,
	port INTEGER NOT NULL CONSTRAINT port_given CHECK (port BETWEEN 1 AND 65535),
	owner TEXT NOT NULL CONSTRAINT port_owner CHECK (owner IN ('slipway', 'foreign')),
	machine TEXT REFERENCES machines (id),
	state TEXT NOT NULL CONSTRAINT port_state CHECK (state IN ('bound', 'quarantine', 'foreign')),
	until INTEGER NOT NULL DEFAULT 0,
	CONSTRAINT port_key PRIMARY KEY (console_group, port),
	CONSTRAINT port_machine CHECK ((owner = 'slipway') = (machine IS NOT NULL) AND (owner = 'foreign') = (state = 'foreign'))
) STRICT;
CREATE UNIQUE INDEX port_of_machine ON console_ports (machine) WHERE state = 'bound';

CREATE TABLE appliance_groups (
	id TEXT PRIMARY KEY,
	unit TEXT NOT NULL,
	generation INTEGER NOT NULL DEFAULT 0,
	applied INTEGER NOT NULL DEFAULT 0,
	min_applied INTEGER NOT NULL,
	capacity INTEGER NOT NULL,
	shrink_approved INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE members (
	group_id TEXT NOT NULL REFERENCES appliance_groups (id),
	name TEXT NOT NULL,
	applied INTEGER NOT NULL DEFAULT 0,
	sha256 TEXT NOT NULL DEFAULT '',
	dirty INTEGER NOT NULL DEFAULT 0,
	halted TEXT NOT NULL DEFAULT '',
	problem TEXT NOT NULL DEFAULT '',
	seen_at INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (group_id, name)
) STRICT;

CREATE TABLE entries (
	group_id TEXT NOT NULL REFERENCES appliance_groups (id),
	machine TEXT NOT NULL,
	owner TEXT NOT NULL CONSTRAINT entry_owner CHECK (owner IN ('slipway', 'foreign')),
	generation INTEGER NOT NULL,
	removed INTEGER NOT NULL DEFAULT 0,
	body TEXT NOT NULL,
	live TEXT NOT NULL DEFAULT '',
	bad TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (group_id, machine)
) STRICT;

-- What operators did beside runs; what they did to runs is in the journal.
CREATE TABLE acts (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	at INTEGER NOT NULL,
	actor TEXT NOT NULL,
	verb TEXT NOT NULL,
	subject TEXT NOT NULL,
	reason TEXT NOT NULL
) STRICT;

-- An address, a MAC, a console port or room leaves its machine only when the machine is recorded absent.
-- +goose StatementBegin
CREATE TRIGGER address_kept_update BEFORE UPDATE ON addresses
WHEN OLD.machine IS NOT NULL
	AND (NEW.machine IS NOT OLD.machine OR NEW.address <> OLD.address OR NEW.owner <> OLD.owner OR (NEW.state = 'quarantine' AND OLD.state <> 'quarantine'))
	AND (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'address_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER address_kept_delete BEFORE DELETE ON addresses
WHEN OLD.machine IS NOT NULL AND (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'address_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER mac_kept_update BEFORE UPDATE ON macs
WHEN OLD.machine IS NOT NULL
	AND (NEW.machine IS NOT OLD.machine OR NEW.mac <> OLD.mac OR NEW.owner <> OLD.owner OR (NEW.state = 'quarantine' AND OLD.state <> 'quarantine'))
	AND (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'mac_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER mac_kept_delete BEFORE DELETE ON macs
WHEN OLD.machine IS NOT NULL AND (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'mac_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER port_kept_update BEFORE UPDATE ON console_ports
WHEN OLD.machine IS NOT NULL
	AND (NEW.machine IS NOT OLD.machine OR NEW.port <> OLD.port OR NEW.console_group <> OLD.console_group OR NEW.owner <> OLD.owner
		OR (NEW.state = 'quarantine' AND OLD.state <> 'quarantine'))
	AND (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'port_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER port_kept_delete BEFORE DELETE ON console_ports
WHEN OLD.machine IS NOT NULL AND (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'port_kept'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reservation_kept BEFORE DELETE ON reservations
WHEN (SELECT presence FROM machines WHERE id = OLD.machine) <> 'absent'
BEGIN SELECT RAISE(ABORT, 'reservation_kept'); END;
-- +goose StatementEnd

-- The counters follow the reservations, and nobody is promised what is not there. An inventory may fall below what is promised already.
-- +goose StatementBegin
CREATE TRIGGER reservation_made AFTER INSERT ON reservations
BEGIN
	UPDATE hosts SET reserved_mib = reserved_mib + NEW.memory_mib WHERE pool = NEW.pool AND uuid = NEW.host;
	UPDATE srs SET reserved_bytes = reserved_bytes + NEW.bytes WHERE pool = NEW.pool AND uuid = NEW.sr;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reservation_ended AFTER DELETE ON reservations
BEGIN
	UPDATE hosts SET reserved_mib = reserved_mib - OLD.memory_mib WHERE pool = OLD.pool AND uuid = OLD.host;
	UPDATE srs SET reserved_bytes = reserved_bytes - OLD.bytes WHERE pool = OLD.pool AND uuid = OLD.sr;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER reservation_moved AFTER UPDATE ON reservations
BEGIN
	UPDATE hosts SET reserved_mib = reserved_mib - OLD.memory_mib WHERE pool = OLD.pool AND uuid = OLD.host;
	UPDATE srs SET reserved_bytes = reserved_bytes - OLD.bytes WHERE pool = OLD.pool AND uuid = OLD.sr;
	UPDATE hosts SET reserved_mib = reserved_mib + NEW.memory_mib WHERE pool = NEW.pool AND uuid = NEW.host;
	UPDATE srs SET reserved_bytes = reserved_bytes + NEW.bytes WHERE pool = NEW.pool AND uuid = NEW.sr;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER host_room BEFORE UPDATE OF reserved_mib ON hosts
WHEN NEW.reserved_mib > OLD.reserved_mib AND NEW.reserved_mib > NEW.memory_mib
BEGIN SELECT RAISE(ABORT, 'host_room'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER sr_room BEFORE UPDATE OF reserved_bytes ON srs
WHEN NEW.reserved_bytes > OLD.reserved_bytes AND NEW.reserved_bytes > NEW.bytes
BEGIN SELECT RAISE(ABORT, 'sr_room'); END;
-- +goose StatementEnd
