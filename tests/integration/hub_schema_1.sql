-- The hub's tables of schema version 1.
CREATE TABLE meta (
    name VARCHAR NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE clients (
    client_id VARCHAR(36) NOT NULL,
    name TEXT NOT NULL,
    secret_digest VARCHAR(64) NOT NULL,
    generation INTEGER NOT NULL,
    disabled BOOLEAN NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (client_id),
    UNIQUE (name)
);
CREATE TABLE tokens (
    digest VARCHAR(64) NOT NULL,
    client_id VARCHAR(36) NOT NULL,
    resource_server TEXT NOT NULL,
    expires_at FLOAT NOT NULL,
    PRIMARY KEY (digest)
);
CREATE INDEX ix_tokens_expires_at ON tokens (expires_at);
CREATE INDEX ix_tokens_client_id ON tokens (client_id);
CREATE TABLE endpoints (
    endpoint_id VARCHAR(36) NOT NULL,
    owner VARCHAR(36) NOT NULL,
    name TEXT NOT NULL,
    display_name TEXT,
    public BOOLEAN NOT NULL,
    allowed_functions TEXT,
    registration TEXT NOT NULL,
    amqp_digest VARCHAR(64) NOT NULL,
    registered_at FLOAT NOT NULL,
    locked_until FLOAT NOT NULL,
    deleted BOOLEAN NOT NULL,
    report_at FLOAT,
    online_until FLOAT NOT NULL,
    report TEXT,
    PRIMARY KEY (endpoint_id)
);
CREATE INDEX ix_endpoints_owner ON endpoints (owner);
CREATE TABLE functions (
    function_id VARCHAR(36) NOT NULL,
    owner VARCHAR(36) NOT NULL,
    name TEXT NOT NULL,
    packed TEXT NOT NULL,
    code TEXT NOT NULL,
    description TEXT,
    metadata TEXT,
    public BOOLEAN NOT NULL,
    created_at FLOAT NOT NULL,
    deleted BOOLEAN NOT NULL,
    PRIMARY KEY (function_id)
);
CREATE INDEX ix_functions_owner ON functions (owner);
CREATE TABLE task_groups (
    task_group_id VARCHAR(36) NOT NULL,
    owner VARCHAR(36) NOT NULL,
    has_queue BOOLEAN NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (task_group_id)
);
CREATE INDEX ix_task_groups_owner ON task_groups (owner);
CREATE TABLE submits (
    submit_id INTEGER NOT NULL,
    client_id VARCHAR(36) NOT NULL,
    endpoint_id VARCHAR(36) NOT NULL,
    task_group_id VARCHAR(36) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    sent BOOLEAN NOT NULL,
    answered BOOLEAN NOT NULL,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (submit_id)
);
CREATE INDEX submits_unanswered ON submits (created_at) WHERE NOT answered;
CREATE TABLE tasks (
    task_id VARCHAR(36) NOT NULL,
    submit_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    function_id VARCHAR(36) NOT NULL,
    endpoint_id VARCHAR(36) NOT NULL,
    task_group_id VARCHAR(36) NOT NULL,
    state VARCHAR(16) NOT NULL,
    received_at FLOAT NOT NULL,
    completed_at FLOAT,
    PRIMARY KEY (task_id)
);
CREATE INDEX ix_tasks_task_group_id ON tasks (task_group_id);
CREATE INDEX tasks_waiting ON tasks (endpoint_id) WHERE state = 'waiting';
CREATE INDEX ix_tasks_completed_at ON tasks (completed_at);
CREATE INDEX ix_tasks_submit_id ON tasks (submit_id);
CREATE TABLE results (
    task_id VARCHAR(36) NOT NULL,
    body BLOB NOT NULL,
    relayed BOOLEAN NOT NULL,
    PRIMARY KEY (task_id)
);
INSERT INTO meta VALUES ('schema', '1');
