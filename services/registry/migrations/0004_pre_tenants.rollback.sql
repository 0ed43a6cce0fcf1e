drop trigger audit on models;
drop trigger if exists audit_truncate on models;

drop policy of_own_model on model_layers;
drop policy of_seen_model on model_layers;
alter table model_layers no force row level security;
alter table model_layers disable row level security;
drop policy of_own_model on model_versions;
alter table model_versions no force row level security;
alter table model_versions disable row level security;

drop policy shared_with_all on models;
drop policy own_organization on models;
alter table models no force row level security;
alter table models disable row level security;

drop table brought_blobs;
drop table model_additions;

-- Without tenants a name is one model: those of other organizations go.
delete from models where organization_id <> 'default';
drop index models_by_digest;
drop index models_by_name;
alter table models drop column organization_id, drop column shared, drop column created_by, drop column created_at,
    drop column tags, drop column description, drop column version;
create unique index models_by_name on models (lower(host), lower(namespace), lower(model), lower(tag));
