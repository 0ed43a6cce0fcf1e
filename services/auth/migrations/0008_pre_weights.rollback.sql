alter table api_keys drop column weight;
alter table organizations drop column weight;
