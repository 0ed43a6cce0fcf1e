-- Settings of the whole installation that are changed while it runs: one row, and every change of it.
create table system_config (
    id boolean primary key default true check (id),
    version integer not null default 1,
    config jsonb not null default '{}'
);

insert into system_config default values;

create table system_config_history (
    version integer primary key,
    changed_at timestamptz not null default now(),
    changed_by text not null,
    before jsonb not null,
    after jsonb not null
);

call audited('system_config', 'id');
