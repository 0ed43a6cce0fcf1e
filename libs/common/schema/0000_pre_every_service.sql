-- What every service's schema has. Applied before the service's own migrations, in its own schema.

-- Messages that must leave if, and only if, the transaction that staged them commits: libs/common/outbox.py.
create table outbox (
    id bigint generated always as identity primary key,
    message text not null,
    body json not null,
    actor text not null default coalesce(current_setting('ollamamax.actor', true), ''),
    urgent boolean not null default false,
    staged_at timestamptz not null default clock_timestamp(),
    claimed_until timestamptz,
    parked_because text
);

create index outbox_next on outbox (urgent desc, id) where parked_because is null;

-- Rows come and go all day: what is dead must not be in the way of what waits.
alter table outbox set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

create function wake_outbox() returns trigger language plpgsql as $$
begin
    perform pg_notify('outbox_' || tg_table_schema, '');
    return null;
end $$;

create trigger wake after insert on outbox for each statement execute function wake_outbox();

-- Tenants: a transaction sees the rows of the organization it works for. '*' is the service itself, at work for all of them.
create function sees(organization text) returns boolean language sql stable as $$
    select coalesce(current_setting('ollamamax.organization', true) in (organization, '*'), false)
$$;

create procedure make_tenant_table(name regclass) language plpgsql as $$
begin
    execute format('alter table %s enable row level security', name);
    execute format('alter table %s force row level security', name);
    execute format(
        'create policy own_organization on %s using (sees(organization_id)) with check (sees(organization_id))', name
    );
end $$;

-- Audit: every change of a row of these tables is staged as auth.RecordAudit, in the transaction that makes it.
-- Arguments: the column that identifies a row; then the columns that hold secrets, which are masked; and '-column' for
-- those that are left out: a change of nothing else is no change.
create function audit_change() returns trigger language plpgsql set search_path from current as $$
declare
    old_row jsonb := case when tg_op in ('UPDATE', 'DELETE') then to_jsonb(old) end;
    new_row jsonb := case when tg_op in ('UPDATE', 'INSERT') then to_jsonb(new) end;
    actor jsonb := coalesce(nullif(current_setting('ollamamax.actor', true), ''), '{}')::jsonb;
    left_out text[] := array(select substr(argument, 2) from unnest(tg_argv[1:]) as argument where argument like '-%');
    secret text;
begin
    old_row := old_row - left_out;
    new_row := new_row - left_out;
    if tg_op = 'UPDATE' and old_row = new_row then
        return null;
    end if;
    foreach secret in array array(select argument from unnest(tg_argv[1:]) as argument where argument not like '-%') loop
        if tg_op = 'UPDATE' and old_row -> secret is distinct from new_row -> secret then
            new_row := new_row || jsonb_build_object(secret, '*** (changed)');
        elsif new_row ? secret then
            new_row := new_row || jsonb_build_object(secret, '***');
        end if;
        if old_row ? secret then
            old_row := old_row || jsonb_build_object(secret, '***');
        end if;
    end loop;
    insert into outbox (message, body) values ('auth.RecordAudit', actor || jsonb_build_object(
        'event_id', gen_random_uuid(),
        'at', extract(epoch from clock_timestamp()),
        'service', tg_table_schema,
        'action', tg_table_name || '.' || lower(tg_op),
        'object', coalesce(coalesce(new_row, old_row) ->> tg_argv[0], ''),
        'organization_id', coalesce(
            coalesce(new_row, old_row) ->> case tg_table_name when 'organizations' then 'id' else 'organization_id' end,
            actor ->> 'organization_id', ''),
        'before', old_row,
        'after', new_row
    ));
    return null;
end $$;

-- Called again for the same table, it takes the new arguments.
create procedure audited(name regclass, variadic columns text[]) language plpgsql as $$
declare
    arguments text := (select string_agg(quote_literal(item), ', ') from unnest(columns) as item);
begin
    execute format(
        'create or replace trigger audit after insert or update or delete on %s for each row execute function audit_change(%s)',
        name, arguments
    );
    execute format(
        'create or replace trigger audit_truncate after truncate on %s for each statement execute function audit_change(%s)',
        name, arguments
    );
end $$;
