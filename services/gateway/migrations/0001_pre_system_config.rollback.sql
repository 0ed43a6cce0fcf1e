drop table system_config_history;
drop table system_config;
