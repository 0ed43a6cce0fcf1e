-- The audit log: one chain over the whole installation, in the order in which auth recorded it. A partition is a month of
-- recorded_at, which never goes back, so it is one stretch of the chain. `before` and `after` are json, not jsonb: the
-- text is kept as it was hashed. docs/audit.md says what the chain proves.
create table audit_log (
    seq bigint not null,
    recorded_at timestamptz not null,
    event_id text not null,
    at timestamptz not null,
    service text not null,
    action text not null,
    object text not null,
    organization_id text not null,
    user_id text not null,
    key_id text not null,
    session_id text not null,
    ip text not null,
    user_agent text not null,
    request_id text not null,
    before json,
    after json,
    previous bytea not null,
    hash bytea not null
) partition by range (recorded_at);

create index audit_log_by_seq on audit_log (seq);
create index audit_log_by_event on audit_log (event_id);
create index audit_log_of_organization on audit_log (organization_id, seq desc);
create index audit_log_of_user on audit_log (user_id, organization_id, seq desc);
create index audit_log_of_object on audit_log (organization_id, object, seq desc);
create index audit_log_by_time on audit_log (organization_id, at);
call make_tenant_table('audit_log');

-- A fence against accidents, not the proof: who may drop the trigger may change rows. The proof is the chain.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only';
end $$;

create trigger append_only before update or delete on audit_log for each row execute function refuse_change();
create trigger append_only_whole before truncate on audit_log for each statement execute function refuse_change();

-- Attached when it is complete: that locks out neither readers nor writers, as "create table ... partition of" would.
create procedure make_audit_partition(month date) language plpgsql set search_path from current as $$
declare
    name text := to_char(month, '"audit_log_"YYYY_MM');
begin
    perform pg_advisory_xact_lock(hashtext('partitions of auth.audit_log'));
    if to_regclass(name) is not null then
        return;
    end if;
    execute format('create table %I (like audit_log including all)', name);
    call make_tenant_table(name::regclass);
    execute format(
        'create trigger append_only_whole before truncate on %I for each statement execute function refuse_change()', name
    );
    execute format(
        'alter table audit_log attach partition %I for values from (%L) to (%L)', name,
        month::timestamp at time zone 'UTC', (month + interval '1 month') at time zone 'UTC'
    );
end $$;

-- The key of the chain, sealed under AUTH_SECRET_KEY: who can only write SQL cannot make a row that fits.
create table audit_key (
    id text primary key default 'chain' check (id = 'chain'),
    sealed_key bytea not null
);

-- Where the chain ends; signed, so that removing the newest rows is found. Appending locks it.
create table audit_head (
    one boolean primary key default true check (one),
    seq bigint not null,
    recorded_at timestamptz not null,
    hash bytea not null,
    signature bytea not null
);

-- Partitions that were written to files and dropped: a signed stretch of the chain each, from the first row on.
create table audit_archives (
    first_seq bigint primary key,
    last_seq bigint not null,
    last_hash bytea not null,
    file text not null,
    file_sha256 bytea not null,
    archived_at timestamptz not null,
    signature bytea not null
);

call audited('signing_keys', 'id', 'sealed_private_key');
call audited('audit_key', 'id', 'sealed_key');
