drop table model_layers;
drop table blobs;
drop table models;
