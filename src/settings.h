/*
 * settings.h
 *		The extension's settings (GUCs ekksync.*).
 */
#ifndef EKKSYNC_SETTINGS_H
#define EKKSYNC_SETTINGS_H

typedef enum ScanMode
{
	SCAN_OFF,	  /* documents named by entries or about to be written */
	SCAN_CHANGED, /* also documents whose updated_at is recent */
	SCAN_FULL	  /* all documents */
} ScanMode;

typedef enum LocalDelete
{
	LOCAL_DELETE_DEACTIVATE, /* the document becomes inactive */
	LOCAL_DELETE_DELETE		 /* the document is deleted */
} LocalDelete;

typedef enum RemoteDelete
{
	REMOTE_DELETE_RESTORE, /* Django's member stands */
	REMOTE_DELETE_IGNORE,  /* each side is as it is */
	REMOTE_DELETE_DELETE   /* the row goes */
} RemoteDelete;

typedef enum RemoteCreate
{
	REMOTE_CREATE_REJECT,
	REMOTE_CREATE_INSERT
} RemoteCreate;

typedef enum RunMode
{
	MODE_SYNC,
	MODE_OBSERVE /* a run writes nothing but our own tables */
} RunMode;

/* A daily limit of documents is at least this, as a run has its own. */
#define DAY_LIMIT_MIN 100

/* An echo of a run's write may come as late as this. */
#define ECHO_DAYS 7

/* Current values, kept by the GUC machinery of this process. */
typedef struct Settings
{
	char *project;		  /* Google Cloud project id, "" when unset */
	char *database_id;	  /* Firestore database id */
	char *emulator_host;  /* host:port, "" to use the environment */
	char *credentials;	  /* path of a key file, "" to use the environment */
	char *databases;	  /* that have runs on schedule, separated by commas */
	int scan;			  /* ScanMode */
	int on_local_delete;  /* LocalDelete */
	int on_remote_delete; /* RemoteDelete */
	int on_remote_create; /* RemoteCreate */
	int full_scan_interval;	   /* days, 0: never by itself */
	int tombstone_days;		   /* 0: for ever */
	int conflict_window;	   /* seconds */
	int max_delete_percent;	   /* of the members, see guard.c */
	int max_clock_skew;		   /* seconds, 0: no limit */
	int mode;				   /* RunMode */
	int connect_timeout;	   /* milliseconds */
	int request_timeout;	   /* milliseconds */
	int max_retries;		   /* tries of one request after the first */
	char *schedule;			   /* of runs, in cron's form, "" for never */
	char *timezone;			   /* in which the schedule is meant */
	bool catch_up;			   /* run at once when a time was missed */
	int max_writes_per_second; /* 0: as Google asks, none with an emulator;
								* -1: no limit */
	int max_reads_per_day;	   /* documents, 0: no limit */
	int max_writes_per_day;	   /* and deletes; the same */
	double price_reads;		   /* of 100,000 documents */
	double price_writes;
	double price_deletes;
	int queue_days; /* days that each is kept, 0: for ever */
	int inbox_days;
	int conflict_days;
	int change_log_days;
	int run_days;
	int remote_queue_days; /* in Firestore, 0: for ever */
	int remote_log_days;
} Settings;

extern Settings settings;

/* Define the settings; called once by _PG_init. */
extern void settings_define(void);

/*
 * host:port of the emulator: the setting, else FIRESTORE_EMULATOR_HOST of the
 * postmaster's environment, else NULL (the real service).
 */
extern const char *settings_emulator_host(void);

/* Name of a scan mode, as in the setting. */
extern const char *settings_scan_name(ScanMode mode);

/*
 * Are clocks wrong that are so far apart (microseconds, either way), give or
 * take error?
 */
extern bool settings_clock_wrong(int64 skew, int64 error);

#endif /* EKKSYNC_SETTINGS_H */
