-- Models belong to organizations. The operating organization may share its own with all others.
alter table models add column organization_id text not null default 'default' check (organization_id <> '');
alter table models add column shared boolean not null default false check (not shared or organization_id = 'default');
alter table models add column created_by text not null default '';
alter table models add column created_at timestamptz not null default now();
alter table models add column tags text[] not null default '{}';
alter table models add column description text not null default '';
alter table models add column version integer not null default 1;
update models set created_at = modified_at;

drop index models_by_name;
create unique index models_by_name
    on models (organization_id, lower(host), lower(namespace), lower(model), lower(tag));
create index models_by_digest on models (digest);

-- Models on their way here, and those that did not come. A row goes when its model is there.
create table model_additions (
    organization_id text not null check (organization_id <> ''),
    name text not null,
    operation_id text not null,
    status text not null check (status in ('pulling', 'failed')),
    error text not null default '',
    created_by text not null default '',
    tags text[] not null default '{}',
    description text not null default '',
    created_at timestamptz not null default now()
);

create unique index model_additions_by_name on model_additions (organization_id, lower(name));
create index model_additions_by_operation on model_additions (operation_id);

-- Blobs lie on one disk for all; who may know that one is there: who sees a model that has it, and who has brought it.
create table brought_blobs (
    organization_id text not null check (organization_id <> ''),
    digest text not null,
    at timestamptz not null default now(),
    primary key (organization_id, digest)
);

create index brought_blobs_by_digest on brought_blobs (digest);

call make_tenant_table('models');
call make_tenant_table('model_additions');
call make_tenant_table('brought_blobs');
create policy shared_with_all on models for select
    using (shared and coalesce(current_setting('ollamamax.organization', true), '') <> '');

-- What a name pointed to before is its organization's own matter: who shares a model shares what it is now.
alter table model_versions enable row level security;
alter table model_versions force row level security;
create policy of_own_model on model_versions
    using (exists (select from models where id = model_id and sees(organization_id)));

-- Layers are seen by who sees the model, and changed by who may change it.
alter table model_layers enable row level security;
alter table model_layers force row level security;
create policy of_seen_model on model_layers for select using (exists (select from models where id = model_id));
create policy of_own_model on model_layers
    using (exists (select from models where id = model_id and sees(organization_id)));

call audited('models', 'id', '-manifest', '-weights', '-facts', '-contents', '-modified_at', '-version');
