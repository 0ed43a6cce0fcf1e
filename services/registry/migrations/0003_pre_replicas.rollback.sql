drop table model_replicas;
drop table cached_blobs;
drop table peers;
