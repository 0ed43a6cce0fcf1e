drop table model_versions;
drop index models_by_weights;
alter table models drop column contents;
