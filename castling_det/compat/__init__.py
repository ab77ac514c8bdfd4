"""What mmengine and mmcv lack, put in where they look for it."""
